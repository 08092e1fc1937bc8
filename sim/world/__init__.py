"""The rooms in virtual time: the real router, scaler and provisioner on one simulated broker, machines that only pretend.

    async def story(world):
        chat = await world.operator.create("chat", group(), max_workers=5)
        world.clients.steady(chat, rate=2.0, units=100, until_s=3600)
        await world.until(3600)

    report = play(story, Plan(seed=7, keys_dir=folder))

`cast` runs the services and may kill them at any moment, `market` is the provider that they rent from, `worker` the PyWorker on a
machine, `clients` ask, `operator` changes endpoints, `inspector` watches what must never happen, `chronicle` makes a digest of all
that did. Equal plan and story, equal digest, in every process.
"""

from .inspector import Broken
from .plan import Kind, Plan, group
from .world import Report, World, play

__all__ = ["Broken", "Kind", "Plan", "Report", "World", "group", "play"]
