"""One run, one process: `lock.json` at the root of a run's directory says who writes there.

It is written by compare-and-swap (`io.conditional`), so that of any number of processes exactly one gets it, and
renewed by its holder every 15 s. It ends in one of four ways:

- its holder removes it, also when it ends with an error;
- its holder was killed, and whoever comes next on the same machine sees that the process is gone;
- it expires: nothing of it has changed for 90 s *on the clock of who waits for it*. The time in the file only decides
  whether waiting makes sense (below 90 s an error says when it will), since clocks of two machines may differ;
- somebody takes it over (`--take-over`), whoever holds it. The former holder learns of it at its next renewal, which
  interrupts it, or when it wants to complete a stage.

Reading a run needs no lock.
"""

from __future__ import annotations

from icce_ray.lock.holder import LOCK_FILE, Holder, holder_of
from icce_ray.lock.run_lock import EXPIRY, RENEW_EVERY, WORKERS_END, RunLock

__all__ = ["EXPIRY", "LOCK_FILE", "RENEW_EVERY", "WORKERS_END", "Holder", "RunLock", "holder_of"]
