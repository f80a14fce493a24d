#!/usr/bin/env python3
"""Checks the model of the handoff contract (Tests/Model) exhaustively with SPIN, then that every rule it states is
needed: with one rule removed at a time, the same search must find a violated invariant.

    scripts/verify.py [--short | --full] [NAME...]

--short leaves out the larger configurations, --full adds the largest. NAME picks configurations and rules by name.
Ends with 1 when a claim fails, a search is not complete, or a removed rule goes unnoticed. See docs/model.md.
"""

import argparse
import concurrent.futures
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "Tests" / "Model"
BUILD = ROOT / ".build" / "verify"
MEMORY_MB = 2900  # two searches at once stay below 6 GB
DEPTH = 100_000
# Where every statement must be reached by some configuration.
ESSENTIAL = {"Row", "Decode", "Prefill", "Records", "Lane", "Requests", "Network", "PrefillFaults", "OtherFaults"}


FLAGS = {"safety": ["-DSAFETY", "-DNOCLAIM"], "ltl": ["-DNOFAIR"], "progress": ["-DNP", "-DNOCLAIM"]}


@dataclass
class Search:
    name: str
    what: str
    defines: str
    model: str = "handoff"
    kind: str = "safety"  # safety, ltl or progress
    level: str = "default"  # short, default or full


@dataclass
class Mutant:
    name: str
    rule: str
    defines: str
    expected: str  # the invariant that must be found violated; empty: another rule covers it
    covered: str = ""
    model: str = "handoff"
    kind: str = "safety"
    level: str = "default"


@dataclass
class Result:
    states: int = 0
    seconds: float = 0.0
    errors: int = -1
    problem: str = ""
    violated: str = ""
    folder: Path = field(default_factory=Path)
    flags: list = field(default_factory=list)
    compiled: dict = field(default_factory=dict)
    unreached: dict = field(default_factory=dict)


SEARCHES = [
    Search("plain", "no faults; refused, retried, one slot used again and again",
        "-DHANDOFFS=3 -DSLOTS=1", level="short"),
    Search("cancel", "a client leaves at any moment", "-DHANDOFFS=2 -DSLOTS=2 -DCANCEL=1"),
    Search("reuse", "a client leaves, its slot is the next one's", "-DHANDOFFS=3 -DSLOTS=1 -DCANCEL=1", level="full"),
    Search("timeouts", "every deadline of the router at any moment", "-DHANDOFFS=2 -DTIMEOUTS"),
    Search("crash", "a prefill node dies (told or not) and starts again", "-DHANDOFFS=2 -DCRASH=1", level="short"),
    Search("crash-reuse", "the same, and a third attempt", "-DHANDOFFS=3 -DSLOTS=1 -DCRASH=1", level="full"),
    Search("pause", "a prefill node stops for ever", "-DHANDOFFS=2 -DPAUSE", level="short"),
    Search("lane-cut", "the data path is cut, silently or not", "-DHANDOFFS=2 -DSLOTS=1 -DCUT_LANE"),
    Search("prefill-cut", "stream or lease of a prefill node ends, it goes on", "-DHANDOFFS=2 -DCUT_PREFILL"),
    Search("decode-cut", "stream or lease of the decode node ends, it goes on", "-DHANDOFFS=2 -DCUT_DECODE"),
    Search("decode-crash", "the decode node dies and starts again", "-DHANDOFFS=2 -DDECODE_CRASH"),
    Search("router-crash", "the router dies, another takes requests", "-DHANDOFFS=2 -DROUTER_CRASH"),
    Search("digest", "digests differ while lanes are cut", "-DHANDOFFS=2 -DSLOTS=1 -DDIGEST -DCUT_LANE"),
    Search("tokens", "stalled after some tokens, resumed by the next attempt",
        "-DHANDOFFS=2 -DSLOTS=1 -DTOKENS=2 -DSTALL"),
    Search("loss", "any message is lost once", "-DHANDOFFS=2 -DLOSSES=1"),
    Search("loss-cancel", "any message is lost once, a client leaves",
        "-DHANDOFFS=2 -DSLOTS=1 -DLOSSES=1 -DCANCEL=1", level="full"),
    Search("quarantine-ends", "the formula, a prefill node hangs and keeps its lease",
        "-DHANDOFFS=2 -DSLOTS=1 -DPAUSE -DHANG -DCANCEL=1 -DLTL", kind="ltl"),
    Search("hang", "a prefill node hangs and keeps its lease", "-DHANDOFFS=2 -DSLOTS=1 -DPAUSE -DHANG -DCANCEL=1"),
    Search("anyone-ends", "among such peers no run goes on for ever", "", model="decode", kind="progress"),
    Search("ends", "no run goes on for ever: there is no cycle",
        "-DHANDOFFS=2 -DSLOTS=1 -DLOSSES=1", kind="progress"),
    Search("anyone", "the decode node among peers that do anything", "", model="decode", level="short"),
    Search("records", "a client leaves, pages of two records",
        "-DHANDOFFS=2 -DSLOTS=1 -DRECORDS=2 -DCANCEL=1", level="full"),
    Search("crash-cancel", "a prefill node dies, a client leaves",
        "-DHANDOFFS=2 -DSLOTS=1 -DCRASH=1 -DCANCEL=1", level="full"),
    Search("cancel-cancel", "both clients leave",
        "-DHANDOFFS=2 -DSLOTS=1 -DCANCEL=2", level="full"),
]

MUTANTS = [
    Mutant("FREE_ON_TIMEOUT", "the drain budget starts a fence, it frees nothing",
        "-DHANDOFFS=2 -DCANCEL=1", "1", level="short"),
    Mutant("FENCE_EARLY", "a fence is answered when the lane is dead", "-DHANDOFFS=2 -DCANCEL=1", "1", level="short"),
    Mutant("SEAL_EARLY", "nothing is sealed before the completion record", "-DHANDOFFS=2", "2", level="short"),
    Mutant("DRAINED_EARLY", "Drained is answered behind the last completion",
        "-DHANDOFFS=2 -DCANCEL=1", "4", level="short"),
    Mutant("UNPIN_EARLY", "source pages are unpinned when acknowledged", "-DHANDOFFS=2", "4", level="short"),
    Mutant("OLD_ACK", "an acknowledgement counts for the handoff it names",
        "-DHANDOFFS=2 -DCANCEL=1", "4", level="short"),
    Mutant("LANE_SHARED", "a lane carries one handoff at a time", "-DHANDOFFS=2 -DCANCEL=1", "1 or 2", level="short"),
    Mutant("OLD_TOKENS", "tokens of an attempt that is over are dropped",
        "-DHANDOFFS=2 -DSLOTS=1 -DTOKENS=2 -DSTALL", "5"),
    Mutant("NO_SETTLE", "a request is over when its rows are settled",
        "-DHANDOFFS=2 -DSLOTS=1 -DCANCEL=1 -DLOSSES=1", "6"),
    Mutant("NO_RETRANSMIT", "what is not answered is said again",
        "-DHANDOFFS=2 -DSLOTS=1 -DLOSSES=1 -DTIMEOUTS", "6"),
    Mutant("FORGET_REFUSED", "a refused handoff is not granted later", "-DHANDOFFS=2 -DSLOTS=1 -DLOSSES=1", "6"),
    Mutant("NO_DRAIN_BUDGET", "a drain that is not answered ends by a fence",
        "-DHANDOFFS=2 -DSLOTS=1 -DPAUSE -DHANG -DCANCEL=1 -DLTL", "3", kind="ltl"),
    Mutant("FENCE_GONE", "the fence of a lane that is gone is answered", "", "3", model="decode"),
    Mutant("NO_GENERATION", "a record must name the granted generation", "", "1", model="decode", level="short"),
    Mutant("NO_RECORD_CHECK", "a record must name what is granted", "", "1", model="decode"),
    Mutant("NO_UNBIND", "Reclaim takes the lane from the handoff first", "", "1", model="decode", level="short"),
    Mutant("NO_FILL", "a completion record counts behind the last byte", "", "2", model="decode"),
    Mutant("NO_EPOCH", "a record must name the epoch", "", "", "the generation check", model="decode"),
    Mutant("NO_HANDOFF", "a record must name the handoff", "", "", "the generation check", model="decode"),
]


def run(command, folder, limit=None):
    """Runs a tool in a folder; returns its output and the processor time it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=limit, check=False)
    return done, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def build(folder, model, defines, kind, options):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    source = MODELS / f"{model}.pml"
    spin, _ = run(["spin", *defines.split(), "-a", str(source)], folder)
    if not (folder / "pan.c").exists() or "Error" in spin.stdout + spin.stderr:
        return f"spin: {(spin.stdout + spin.stderr).strip()}"
    gcc, _ = run(
        ["gcc", *options, "-w", *FLAGS[kind], "-DVECTORSZ=1024", f"-DMEMLIM={MEMORY_MB}", "-o", "pan", "pan.c"], folder)
    return f"gcc: {gcc.stderr.strip()[:2000]}" if gcc.returncode else ""


def search(folder, model, defines, kind, options, coverage):
    result = Result(folder=folder, flags=FLAGS[kind])
    result.problem = build(folder, model, defines, kind, options)
    if result.problem:
        return result
    arguments = {"safety": [], "ltl": ["-a"], "progress": ["-l"]}[kind]
    began = time.monotonic()
    pan, _ = run(["./pan", f"-m{DEPTH}", *arguments], folder)
    result.seconds = time.monotonic() - began
    output = pan.stdout + pan.stderr
    (folder / "output.txt").write_text(output)
    read_output(result, output)
    if coverage and not result.problem:
        table, _ = run(["./pan", "-d"], folder)
        result.compiled = compiled_lines(table.stdout)
        result.unreached = unreached_lines(output)
    return result


def read_output(result, output):
    """Takes nothing for granted: a search counts only when pan says that it was whole."""
    summary = re.search(r"depth reached (\d+), errors: (\d+)", output)
    states = re.search(r"^\s*([\d.e+]+) states, stored", output, re.M)
    if not summary or not states:
        result.problem = "no summary: " + output.strip()[-300:]
        return
    result.states = int(float(states.group(1)))
    result.errors = int(summary.group(2))
    violation = re.search(r"pan:\d+: (.*)", output)
    if result.errors:
        result.violated = violation.group(1) if violation else "?"
    for sign in (
        "out of memory", "reached -DMEMLIM", "max search depth too small", "VECTORSZ is too small", "aborting"):
        if sign in output:
            result.problem = sign
    if "Full statespace search for" not in output:
        result.problem = "not a full search"
    if "hash conflicts" in output and "Bit statespace" in output:
        result.problem = "a bitstate search"
    if "Search not completed" in output and not result.errors:
        result.problem = result.problem or "the search was not completed"


def compiled_lines(table):
    lines, proctype = {}, ""
    for line in table.splitlines():
        if head := re.match(r"(?:proctype|init|claim)\s+(\S+)", line):
            proctype = head.group(1)
        elif place := re.search(r"\.pml:(\d+) => (.*)", line):
            if "-end-" not in place.group(2):
                lines.setdefault(proctype, {})[int(place.group(1))] = place.group(2)
    return lines


def unreached_lines(output):
    lines, proctype = {}, ""
    for line in output.splitlines():
        if head := re.match(r"unreached in (?:proctype|init|claim) (\S+)", line):
            proctype = head.group(1)
        elif place := re.match(r'\s+\S*\.pml:(\d+), state \d+, "(.*)"', line):
            if "-end-" not in place.group(2):
                lines.setdefault(proctype, {})[int(place.group(1))] = place.group(2)
    return lines


def never_reached(results):
    """Statements of essential processes that no configuration that has them reaches."""
    compiled, reached = {}, set()
    for model, result in results:
        for proctype, lines in result.compiled.items():
            if proctype not in ESSENTIAL:
                continue
            for line, text in lines.items():
                compiled[model, proctype, line] = text
                if line not in result.unreached.get(proctype, {}):
                    reached.add((model, proctype, line))
    return [(*key, text) for key, text in sorted(compiled.items()) if key not in reached]


def invariant(result):
    """Which invariant was violated: the models' `invariant` macro leaves the number in the assertion's text."""
    if "acceptance cycle" in result.violated:
        return "3"
    number = re.search(r"assertion violated .*\((\d)==0\)\)", result.violated)
    return number.group(1) if number else result.violated


def replay(result, model):
    """The steps of a counterexample: process, and the source line that says what it did."""
    pan, _ = run(["./pan", "-r", f"{model}.pml.trail"], result.folder)
    source = (MODELS / f"{model}.pml").read_text().splitlines()
    names, steps = {}, []
    first = int("-DNOCLAIM" not in result.flags or "-DNP" in result.flags) + 1  # a claim is process 0
    for line in pan.stdout.splitlines():
        step = re.match(r"\s*\d+:\s+proc\s+(\d+) \((\S+?)\) (\S+):(\d+) \(state \d+\)\s+\[(.*)\]", line)
        if not step:
            continue
        number, name, _, at, text = step.groups()
        if started := re.match(r"\(run (\w+)\((.*)\)\)", text):
            names[str(len(names) + first)] = f"{started.group(1)}({started.group(2)})"
            continue
        if place := re.match(r"D_STEP(\d+)", text):
            at = place.group(1)
        who = names.get(number, name)
        said = " ".join(source[int(at) - 1].split()) if at.isdigit() and int(at) <= len(source) else text
        if not steps or steps[-1] != (who, at, said):
            steps.append((who, at, said))
    return steps


def show_trail(result, model):
    print(f"\n  {result.violated}")
    for who, line, text in replay(result, model):
        print(f"    {who:<18} {model}.pml:{line:<5} {text[:130]}")


def check_searches(chosen, workers):
    print(f"{'configuration':<17} {'states':>10} {'seconds':>8}  verdict")
    failed, covered = [], []
    jobs = {
        workers.submit(search, BUILD / one.name, one.model, one.defines, one.kind,
            ["-O2", "-DCOLLAPSE"] if one.level == "full" else ["-O2"], one.kind == "safety"): one
        for one in chosen}
    for done in concurrent.futures.as_completed(jobs):
        one, result = jobs[done], done.result()
        good = not result.problem and result.errors == 0
        verdict = "holds" if good else result.problem or f"VIOLATED: {result.violated}"
        print(f"{one.name:<17} {result.states:>10,} {result.seconds:>8.1f}  {verdict}: {one.what}", flush=True)
        covered.append((one.model, result))
        if not good:
            failed.append(one.name)
            if result.errors > 0:
                show_trail(result, one.model)
    return failed, covered


def check_mutants(chosen, workers):
    print(f"\n{'rule removed':<17} {'states':>10} {'seconds':>8}  {'violated':<14} caught")
    failed = []
    jobs = {
        workers.submit(
            search, BUILD / f"without-{one.name}", one.model, f"-DMUTANT_{one.name} {one.defines}".strip(), one.kind,
            ["-O0"] if one.expected else ["-O2"], False): one
        for one in chosen}
    for done in concurrent.futures.as_completed(jobs):
        one, result = jobs[done], done.result()
        if one.expected:
            found = invariant(result) if result.errors > 0 else "none"
            good = result.errors > 0 and found in one.expected.split(" or ")
            verdict = "yes" if good else "NO" + (f" ({result.problem})" if result.problem else "")
        else:
            found = "none" if result.errors == 0 and not result.problem else result.violated or result.problem
            good = found == "none"
            verdict = f"covered by {one.covered}" if good else f"not covered by {one.covered}: say so in the table"
        shown = f"invariant {found}" if found.isdigit() else found
        print(
            f"{one.name:<17} {result.states:>10,} {result.seconds:>8.1f}  {shown:<14} {verdict}: {one.rule}", flush=True)
        if not good:
            failed.append(one.name)
            if result.errors > 0:
                show_trail(result, one.model)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    level = parser.add_mutually_exclusive_group()
    level.add_argument("--short", action="store_true", help="the smallest configurations only")
    level.add_argument("--full", action="store_true", help="the largest configurations too")
    parser.add_argument("--trail", action="store_true", help="with names: print the counterexample of each rule")
    parser.add_argument("names", nargs="*", help="configurations and rules")
    options = parser.parse_args()
    for tool in ("spin", "gcc"):
        if not shutil.which(tool):
            sys.exit(f"verify: no {tool}: scripts/setup.sh verify")
    levels = {"short"} if options.short else {"short", "default", "full"} if options.full else {"short", "default"}

    def picked(one):
        return one.name in options.names if options.names else one.level in levels

    searches = [one for one in SEARCHES if picked(one)]
    if options.full and not options.names:
        searches += [
            replace(one, name=f"{one.name}-ends", what="no cycle", kind="progress", level="full")
            for one in searches if one.kind == "safety" and one.level != "full" and one.name != "anyone"]
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as workers:
        failed, covered = check_searches(searches, workers)
        dead = never_reached(covered) if not options.names and not options.short else []
        for model, proctype, line, text in dead:
            print(f"never reached: {model}.pml:{line} {proctype}: {text}")
        mutants = [one for one in MUTANTS if picked(one)]
        failed += check_mutants(mutants, workers)
    if options.trail:
        for one in mutants:
            folder = BUILD / f"without-{one.name}"
            if list(folder.glob("*.trail")):
                print(f"\n{one.name}: {one.rule}")
                text = (folder / "output.txt").read_text()
                result = Result(folder=folder, flags=FLAGS[one.kind])
                read_output(result, text)
                show_trail(result, one.model)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    print(f"\n{time.monotonic() - began:.0f} s, at most {peak} MB in one search")
    if failed or dead:
        sys.exit(f"verify: failed: {', '.join(failed + (['unreached statements'] if dead else []))}")


if __name__ == "__main__":
    main()
