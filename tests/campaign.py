"""Kill real runs at random moments, go on, and compare the end with that of a quiet run.

``python -m tests.campaign --kills 200`` prints what was lost, stage by stage, and ends with 1 if
anything was. ``--concurrent`` runs two processes at once on one output instead. Runs are forked
from this process, which has imported everything: a run is as long as its work.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rekd_hloc.config import MatchConfig
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.matching.pairs import exhaustive_pairs
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.sfm.reconstruct import reconstruct
from tests.campaign_results import differences, unsound
from tests.corner_scene import make_photos
from tests.sift_extractor import SiftExtractor

STAGES = ("extract", "match", "reconstruct")
MOST_KILLS = 5
"""Of one output, before it may come to its end."""
LONGEST_S = 120.0
"""A run that takes so long hangs."""
KEYPOINTS, OTHER_KEYPOINTS = 300, 200
"""Of the usual run, and of one that replaces its output by another."""
FINISHED, REFUSED, CRASHED = 0, 2, 3


@dataclass(frozen=True)
class Job:
    """One run of a stage.

    Attributes:
        stage: one of ``STAGES``.
        source: folder with ``images``, and ``features.h5`` to match.
        output: folder to write.
        num_keypoints: the run's settings.
        overwrite: replace what is there.
    """

    stage: str
    source: Path
    output: Path
    num_keypoints: int = KEYPOINTS
    overwrite: bool = False

    def run(self) -> None:
        """What the user's command does."""
        images, features = self.source / "images", self.source / "features.h5"
        extractor = Diary(self.num_keypoints, self.output.with_name(f"{self.output.name}.diary"))
        if self.stage == "extract":
            extract_images(extractor, images, self.output / "features.h5", overwrite=self.overwrite)
        elif self.stage == "match":
            config = MatchConfig(ratio=0.9 if self.num_keypoints == KEYPOINTS else 0.8)
            pairs = exhaustive_pairs(sorted(path.name for path in images.iterdir()))
            match_images(
                features, self.output / "matches.h5", pairs, config, overwrite=self.overwrite
            )
        else:
            reconstruct(
                images, self.output, extractor=extractor, device="cpu", overwrite=self.overwrite
            )


class Diary(SiftExtractor):
    """Notes each image it begins: those before it are finished for good."""

    def __init__(self, num_keypoints, path):
        super().__init__(num_keypoints, keypoints=str(num_keypoints))
        self._path = path
        with path.open("a") as file:
            file.write("run\n")

    def __call__(self, image, mask=None):
        with self._path.open("a") as file:
            file.write(f"{hash(image.numpy().tobytes())}\n")
        return super().__call__(image, mask)


def fork(action: Callable[[], None], messages: Path) -> int:
    """Start an action in a process of its own; what it says goes into a file."""
    pid = os.fork()
    if pid:
        return pid
    code = CRASHED
    try:
        handle = os.open(messages, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        action()
        code = FINISHED
    except (ValueError, OSError) as error:
        os.write(2, f"{error}\n".encode())
        code = REFUSED
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def wait(pid: int, seconds: float = LONGEST_S) -> int | None:
    """How the process ended: its code, minus a signal, or None if it runs on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0003)
    return None


def kill(pid: int) -> None:
    """End a process of ours at once."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def finish(action: Callable[[], None], messages: Path) -> str:
    """Run to the end; empty if all went well, else what was said."""
    pid = fork(action, messages)
    code = wait(pid)
    if code is None:
        kill(pid)
        return f"hangs for {LONGEST_S:.0f} s"
    return "" if code == FINISHED else f"code {code}: {messages.read_text()}"


class Campaign:
    """Rounds of one stage against the end of a quiet run."""

    def __init__(self, stage: str, folder: Path, rng: random.Random) -> None:
        self.stage, self.rng = stage, rng
        self.folder = folder / stage
        self.folder.mkdir()
        self.source = folder / "source"
        self.messages = self.folder / "messages"
        self.references = {
            count: self.folder / f"quiet {count}" for count in (KEYPOINTS, OTHER_KEYPOINTS)
        }
        start = time.monotonic()
        for count, output in self.references.items():
            said = self.finish(Job(stage, self.source, output, count).run)
            assert not said, f"the quiet run of {stage} failed: {said}"
        self.seconds = (time.monotonic() - start) / 2
        self.counts: Counter[str] = Counter()
        self.losses: list[str] = []

    def finish(self, action: Callable[[], None]) -> str:
        return finish(action, self.messages)

    def compare(self, output: Path, count: int = KEYPOINTS) -> str:
        """How the end differs from the quiet run's; empty if it does not."""
        return self.finish(lambda: differences(output, self.references[count]))

    def kill_round(self, budget: int) -> None:
        """Kill runs on one output, go on to the end, and compare."""
        output = self.folder / "out"
        kills, said = 0, ""
        for _ in range(min(budget, self.rng.randint(1, MOST_KILLS))):
            pid = fork(Job(self.stage, self.source, output).run, self.messages)
            if self._is_over_before_the_kill(pid, output):
                code = os.waitstatus_to_exitcode(self.status)
                said = "" if code == FINISHED else f"code {code}: {self.messages.read_text()}"
                break
            kill(pid)
            kills += 1
            said = self.finish(lambda: unsound(output, self.references[KEYPOINTS]))
            if said:
                said = f"after a kill: {said}"
                break
        said = said or self.finish(Job(self.stage, self.source, output).run)
        said = said or self.compare(output) or redone(output)
        self._note(kills, "survived", said, output)

    def concurrent_round(self, number: int) -> None:
        """Two runs at once; in every second round the later one replaces the other's output.

        One of them always finishes, and the end is exactly what that one, or the later of two that
        finished, would have made alone.
        """
        output = self.folder / "out"
        overwrites = number % 2 == 1
        second = Job(
            self.stage,
            self.source,
            output,
            OTHER_KEYPOINTS if overwrites else KEYPOINTS,
            overwrite=overwrites,
        )
        others = self.folder / "other messages"
        pids = [fork(Job(self.stage, self.source, output).run, self.messages)]
        time.sleep(self.rng.uniform(0, self.seconds))
        pids.append(fork(second.run, others))
        codes = [wait(pid) for pid in pids]
        for pid, code in zip(pids, codes, strict=True):
            if code is None:
                kill(pid)
        texts = [path.read_text() for path in (self.messages, others)]
        said = _judge_codes(codes, texts)
        ways = {True: "with --overwrite", False: "the same twice"}[overwrites]
        finished = codes.count(FINISHED)
        self.counts[f"{ways}: {finished} of 2 finished"] += 1
        said = said or ("" if finished else "both were refused")
        count = second.num_keypoints if codes[1] == FINISHED else KEYPOINTS
        said = said or self.compare(output, count)
        self._note(1, "survived", f"{ways}: {said}" if said else "", output)

    def _is_over_before_the_kill(self, pid: int, output: Path) -> bool:
        """Wait until a random moment; half of them are moments at which files come and go."""
        end = time.monotonic() + self.rng.uniform(0, 1.1 * self.seconds)
        changes = self.rng.choice((0, self.rng.randint(1, 9)))
        before = _names(output)
        while time.monotonic() < end or changes:
            done, self.status = os.waitpid(pid, os.WNOHANG)
            if done:
                return True
            if changes and (now := _names(output)) != before:
                before, changes = now, changes - 1
                if not changes:
                    end = time.monotonic() + self.rng.uniform(0, 0.003)
            time.sleep(0.0002)
        return False

    def _note(self, kills: int, word: str, loss: str, output: Path) -> None:
        self.counts["kills"] += kills
        self.counts["lost" if loss else word] += kills
        if loss:
            self.losses.append(loss.replace(f"{output}/", ""))
        shutil.rmtree(output, ignore_errors=True)
        output.with_name(f"{output.name}.diary").unlink(missing_ok=True)


def redone(output: Path) -> str:
    """Images that a later run began again though an earlier one had finished them."""
    diary = output.with_name(f"{output.name}.diary")
    runs = diary.read_text().split("run\n") if diary.exists() else []
    finished: set[str] = set()
    for run in runs:
        begun = run.split()
        again = finished.intersection(begun)
        if again:
            return f"{len(again)} finished images were extracted again"
        finished.update(begun[:-2])  # the last two may be at work or on their way to the disk
    return ""


def _judge_codes(codes: list[int | None], texts: list[str]) -> str:
    """What no user may meet of two runs at once."""
    for code, text in zip(codes, texts, strict=True):
        if code is None:
            return "hangs"
        if code == REFUSED and "is being written by another process" not in text:
            return f"refused for another reason: {text.splitlines()[-1]}"
        if code not in (FINISHED, REFUSED):
            return f"code {code}: {text}"
    return ""


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))  # noqa: PTH208  (fast enough to see each change)
    except FileNotFoundError:
        return set()


def main(argv: list[str] | None = None) -> int:
    """Run the campaign; 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of all stages together, or rounds")
    parser.add_argument("--seed", type=int, default=None, help="of the moments; else the time")
    parser.add_argument("--stage", choices=STAGES, action="append", help="all without it")
    parser.add_argument("--concurrent", action="store_true", help="two runs at once, no kill")
    options = parser.parse_args(argv)
    seed = time.time_ns() % 10**6 if options.seed is None else options.seed
    stages = options.stage or STAGES
    with tempfile.TemporaryDirectory(prefix="campaign_") as name:
        folder = Path(name)
        prepare(folder / "source")
        campaigns = []
        for place, stage in enumerate(stages):
            campaign = Campaign(stage, folder, random.Random(f"{seed} {stage}"))
            share = (options.kills + place) // len(stages)
            number = 0
            while campaign.counts["kills"] < share:
                if options.concurrent:
                    campaign.concurrent_round(number)
                else:
                    campaign.kill_round(share - campaign.counts["kills"])
                number += 1
            campaigns.append(campaign)
    sys.stdout.write(format_table(campaigns, seed, options.concurrent))
    return 1 if any(campaign.losses for campaign in campaigns) else 0


def prepare(source: Path) -> None:
    """Pictures of a corner from eight sides, and their features for the runs that match."""
    make_photos(source, 8)
    job = Job("extract", source, source)
    said = finish(job.run, source / "messages")
    assert not said, said


def format_table(campaigns: list[Campaign], seed: int, concurrent: bool) -> str:
    """What was tried, how often, and what survived."""
    tried = "rounds" if concurrent else "kills"
    lines = [f"seed {seed}", f"{'stage':<12} {tried:>6} {'survived':>9} {'lost':>5}  seconds a run"]
    for item in campaigns:
        counts = item.counts
        lines.append(
            f"{item.stage:<12} {counts['kills']:>6} {counts['survived']:>9} {counts['lost']:>5}"
            f"  {item.seconds:.2f}"
        )
    for item in campaigns:
        for key, value in sorted(item.counts.items()):
            if key not in ("kills", "survived", "lost"):
                lines.append(f"{item.stage}, {key}: {value}")
        for loss, number in Counter(item.losses).most_common():
            lines.append(f"{item.stage}, {number} times: {loss.strip()}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
