import CKernels
import Glibc
import Synchronization

/// The words that the threads of a pool share.
///
/// `state` is one word: the region's number, whether it is open to be joined, and how many workers are in it.
/// The caller opens a region, works on it, closes it and waits until the last worker has left; a worker that
/// comes late finds it closed and stays out. Everything else follows from that word:
/// - `job` and `next` are written only while no region is open and no worker is in one;
/// - a worker reads them only between joining (which acquires) and leaving (which releases).
///
/// `@unchecked`: `job` is the only mutable property that is not atomic, and the rule above orders its uses.
final class PoolState: @unchecked Sendable {
    typealias Body = UnsafePointer<(_ index: Int, _ worker: Int) -> Void>

    private struct Job {
        var count: Int
        var body: Body
    }

    private static let open: UInt64 = 1 << 31
    private static let active: UInt64 = open - 1
    private static let line = 128

    // Each on its own pair of cache lines; futexes need their addresses.
    private let memory: UnsafeMutableRawPointer
    private let state: UnsafeMutablePointer<Atomic<UInt64>>
    private let next: UnsafeMutablePointer<Atomic<Int>>
    private let wakeups: UnsafeMutablePointer<Atomic<UInt32>>
    private let callerSleeps: UnsafeMutablePointer<Atomic<UInt32>>
    private let sleepers = Atomic<Int>(0)
    private let stopped = Atomic<Bool>(false)
    private let busy = Atomic<Bool>(false)
    private var job: Job?

    init() {
        memory = .allocate(byteCount: 4 * Self.line, alignment: Self.line)
        state = memory.bindMemory(to: Atomic<UInt64>.self, capacity: 1)
        next = (memory + Self.line).bindMemory(to: Atomic<Int>.self, capacity: 1)
        wakeups = (memory + 2 * Self.line).bindMemory(to: Atomic<UInt32>.self, capacity: 1)
        callerSleeps = (memory + 3 * Self.line).bindMemory(to: Atomic<UInt32>.self, capacity: 1)
        state.initialize(to: Atomic(0))
        next.initialize(to: Atomic(0))
        wakeups.initialize(to: Atomic(0))
        callerSleeps.initialize(to: Atomic(0))
    }

    deinit { memory.deallocate() }

    /// Claims the pool for one region.
    func enter() {
        precondition(
            !busy.exchange(true, ordering: .acquiring), "ComputePool.run inside a region, or from two threads")
        precondition(!stopped.load(ordering: .relaxed), "ComputePool.run after shutdown")
    }

    func exit() { busy.store(false, ordering: .releasing) }

    // MARK: The caller

    func run(_ count: Int, _ body: Body) {
        job = Job(count: count, body: body)
        next.pointee.store(0, ordering: .relaxed)
        let number = (state.pointee.load(ordering: .relaxed) >> 32) &+ 1
        // Sequentially consistent, like the worker's pair in `sleep`: either this thread sees the sleeper, or
        // the sleeper sees the region.
        state.pointee.store(number << 32 | Self.open, ordering: .sequentiallyConsistent)
        let asleep = sleepers.load(ordering: .sequentiallyConsistent)
        if asleep > 0 { wake(min(asleep, count - 1)) }
        drain(count, body, worker: 0)
        let left = state.pointee.bitwiseAnd(~Self.open, ordering: .sequentiallyConsistent).newValue
        if left & Self.active != 0 { waitForWorkers() }
        job = nil
    }

    private func wake(_ count: Int) {
        wakeups.pointee.wrappingAdd(1, ordering: .sequentiallyConsistent)
        ck_wake(UnsafeRawPointer(wakeups).assumingMemoryBound(to: UInt32.self), Int32(clamping: count))
    }

    private func waitForWorkers() {
        var spin = Spin(nanoseconds: 100_000)
        while state.pointee.load(ordering: .acquiring) & Self.active != 0 {
            if spin.again() { continue }
            callerSleeps.pointee.store(1, ordering: .sequentiallyConsistent)
            if state.pointee.load(ordering: .sequentiallyConsistent) & Self.active != 0 {
                ck_wait(UnsafeRawPointer(callerSleeps).assumingMemoryBound(to: UInt32.self), 1)
            }
        }
        callerSleeps.pointee.store(0, ordering: .relaxed)
    }

    /// Lets all workers return. Must not be called during a region.
    func stop() {
        stopped.store(true, ordering: .sequentiallyConsistent)
        wake(Int(Int32.max))
    }

    // MARK: The workers

    /// Body of a worker thread: returns after `stop`.
    func work(as worker: Int) {
        var joined: UInt64 = 0
        var spin = Spin(nanoseconds: 50_000)
        while !stopped.load(ordering: .relaxed) {
            if join(&joined) {
                if let job { drain(job.count, job.body, worker: worker) }
                leave()
                spin = Spin(nanoseconds: 50_000)
            } else if !spin.again() {
                sleep(joined)
                spin = Spin(nanoseconds: 50_000)
            }
        }
    }

    private func drain(_ count: Int, _ body: Body, worker: Int) {
        while true {
            let index = next.pointee.wrappingAdd(1, ordering: .relaxed).oldValue
            if index >= count { return }
            body.pointee(index, worker)
        }
    }

    private func isJoinable(_ value: UInt64, _ joined: UInt64) -> Bool {
        value & Self.open != 0 && value >> 32 != joined
    }

    /// Joins the open region, unless this worker has been in it.
    private func join(_ joined: inout UInt64) -> Bool {
        var value = state.pointee.load(ordering: .relaxed)
        while isJoinable(value, joined) {
            let (exchanged, original) = state.pointee.weakCompareExchange(
                expected: value, desired: value + 1, ordering: .acquiring)
            if exchanged {
                joined = value >> 32
                return true
            }
            value = original
        }
        return false
    }

    private func leave() {
        let left = state.pointee.wrappingSubtract(1, ordering: .sequentiallyConsistent).newValue
        // The caller sleeps only after closing the region, so the last to leave a closed one wakes it.
        guard left & (Self.open | Self.active) == 0 else { return }
        guard callerSleeps.pointee.exchange(0, ordering: .sequentiallyConsistent) == 1 else { return }
        ck_wake(UnsafeRawPointer(callerSleeps).assumingMemoryBound(to: UInt32.self), 1)
    }

    private func sleep(_ joined: UInt64) {
        sleepers.wrappingAdd(1, ordering: .sequentiallyConsistent)
        let seen = wakeups.pointee.load(ordering: .sequentiallyConsistent)
        let value = state.pointee.load(ordering: .sequentiallyConsistent)
        if !isJoinable(value, joined) && !stopped.load(ordering: .sequentiallyConsistent) {
            ck_wait(UnsafeRawPointer(wakeups).assumingMemoryBound(to: UInt32.self), seen)
        }
        sleepers.wrappingSubtract(1, ordering: .sequentiallyConsistent)
    }
}

/// A brief wait: bursts of pauses, later with yields between them, until the time is up.
private struct Spin {
    private let nanoseconds: UInt64
    private var start: UInt64 = 0
    private var rounds = 0

    init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }

    /// False once the time is up; then the caller goes to sleep.
    mutating func again() -> Bool {
        rounds += 1
        if rounds % 16 != 0 {
            ck_relax()
            return true
        }
        let now = ck_nanoseconds()
        if start == 0 { start = now }
        if now - start > nanoseconds { return false }
        // A thread that wants this CPU gets it: a yield costs a microsecond where nobody does.
        if now - start > nanoseconds / 4 { sched_yield() }
        return true
    }
}
