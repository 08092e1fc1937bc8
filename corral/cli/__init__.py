"""The command line. Each file is one noun; `command` is how a verb is declared; `show` is how it speaks."""
