"""The figures of a run, and which of them must be what."""

import json
import resource


def _count(value):
    return "not counted" if value is None else f"{value:,}"


def _parts(counts):
    if not counts:
        return "none"
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda pair: -pair[1]))


def _sum(counts):
    return f"{sum(counts.values()):,}: {_parts(counts)}"


class Report:
    def __init__(self, options, load, faults, counters, carried=None):
        self.options = options
        self.load = load
        self.faults = faults
        self.counters = counters
        # What carried the pages, where that matters.
        self.carried = carried
        self.broken = []

    def must(self, what, problems, limit=10):
        """Prints a line that must be 0; `problems` are those that make it more."""
        count = len(problems)
        print(f"  {what:<42} {count}{'' if count == 0 else '   must be 0'}")
        for problem in list(problems)[:limit]:
            print(f"      {problem}")
        if count:
            self.broken.append(what)

    def line(self, what, text):
        print(f"  {what:<42} {text}")

    def print(self, seconds, phases, unsettled, pages, handoffs, lanes, footprint, beyond, exits, wrong_after):
        tally, counters = self.load.tally, self.counters
        granted = counters.total("grants_total", role="decode") or 0
        print(f"\n{seconds:.0f} s under load, seed {self.options.seed}, {self.faults.cluster.network.description}")
        print("\nLoad")
        self.line("requests", f"{tally.sent:,} ({tally.sent / seconds:.1f}/s; {tally.withheld:,} more withheld at "
                  f"{self.options.in_flight} open)")  # fmt: skip
        self.line("finished", f"{tally.finished:,} ({tally.too_late:,} of them before their client would have left)")
        self.line("aborted by their client", f"{tally.aborted:,}: {_parts(phases)}")
        self.line("failed at the router that is restarted", _sum(tally.failures["first"]))
        self.line("failed at the other", _sum(tally.failures["other"]))
        used = resource.getrusage(resource.RUSAGE_SELF)
        self.line("CPU time of this harness", f"{used.ru_utime + used.ru_stime:.0f} s")
        print("\nFaults")
        self.line("injected", f"{len(self.faults.history)}: {_parts(self.faults.counts)}")
        print("\nHandoffs")
        self.line("granted", f"{granted:,} ({granted / seconds:.1f}/s)")
        self.line("sealed", _count(counters.total("seals_total", role="decode")))
        self.line("retries", _count(counters.total("retries_total", role="router")))
        self.line("failures at the nodes", _parts(counters.by_label("cause", "handoff_failures_total")))
        proofs = counters.by_label("kind", "quiescence_proofs_total", role="decode")
        self.line("proofs by kind", _parts(proofs))
        self.line("fences", _count(counters.total("fences_total", role="decode")))
        # By the decode node over TCP; over RDMA only the writer is told.
        stale = counters.total("stale_write_rejected_total")
        self.line("stale writes rejected", _count(stale))
        dropped = counters.by_label("kind", "handoff_events_dropped_total")
        self.line("messages dropped", _parts(dropped))
        self.line("time to safe reclaim", self._reclaim())
        self.line("quarantined pages at most, per node", f"{int(max(counters.peaks.values(), default=0))}")
        drafted = counters.total("spec_draft_tokens_total", role="decode") or 0
        accepted = counters.total("spec_accepted_tokens_total", role="decode") or 0
        self.line("tokens drafted", f"{drafted:,}, {accepted:,} of them accepted")
        if self.carried:
            self.carried.report(self)
        print("\nMust be 0")
        finished = [m for m in tally.mismatches if m["finished"]]
        parts = [m for m in tally.mismatches if not m["finished"]]
        self.must("finished answers unlike the reference", [_mismatch(m) for m in finished])
        self.must("beginnings unlike the reference", [_mismatch(m) for m in parts])
        self.must("answers unlike the reference afterwards", wrong_after)
        digests = counters.by_label("where", "digest_mismatches_total")
        self.must("digest mismatches", [f"{where} {count}" for where, count in digests.items() if count])
        self.must("nodes without drafts", ["all"] if self.options.speculate and not drafted else [])
        self.must("lost pages", [f"{node}: {what}" for node, what in pages.items()])
        self.must("open handoffs", [f"{node}: {what}" for node, what in handoffs.items()])
        self.must("nodes with lanes missing", lanes)
        if self.carried:
            self.must("pairs of nodes not over RDMA afterwards", self.carried.missing)
            self.must("signs that pages did not go over RDMA", self.carried.problems())
        self.must("not quiet afterwards", [unsettled] if unsettled else [])
        self.must("stuck requests", ["no end"] * tally.stuck)
        self.must(f"of {tally.beside} beside a router's restart: failed", tally.disturbed)
        self.must("processes that ended by themselves", exits)
        self.must("faults that could not be undone", self.faults.errors)
        self.must("open files or memory beyond their bounds", beyond)
        for text in footprint:
            print(f"      {text}")
        if granted < self.options.min_handoffs:
            print(f"  {granted:,} handoffs, fewer than {self.options.min_handoffs:,}")
            self.broken.append("handoffs")
        return not self.broken

    def _reclaim(self):
        (median, high), count = self.counters.quantiles((0.5, 0.99), "time_to_safe_reclaim_seconds", role="decode")
        if median is None:
            return "not counted"
        return f"p50 {median * 1e3:.1f} ms, p99 {high * 1e3:.0f} ms ({count:,} aborted handoffs)"

    def keep(self, folder):
        """What a failure needs to be looked into, beside the logs."""
        (folder / "mismatches.json").write_text(json.dumps(self.load.tally.mismatches, indent=1))
        start = self.faults.history[0].began if self.faults.history else 0
        with open(folder / "faults.txt", "w") as file:
            for fault in self.faults.history:
                ended = f"{fault.ended - start:8.2f}" if fault.ended else "       …"
                file.write(f"{fault.began - start:8.2f} –{ended} s  {fault.victim:<12} {fault.what}\n")


def _mismatch(mismatch):
    where = f"request {mismatch['request']} ({mismatch['kind']}) at {mismatch['router']}"
    return f"{where}: {mismatch['seen']['text']!r}, not {mismatch['reference']['text']!r}"
