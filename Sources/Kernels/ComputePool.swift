import CKernels
import Glibc
import Synchronization

/// A fixed set of threads for parallel regions, of which the caller is one.
///
/// A region costs about a microsecond while the threads are awake. A thread without work spins for some
/// tens of microseconds, yielding, and then sleeps in a futex: an idle pool uses no CPU. A region never
/// waits for a thread that has not joined it, so a busy machine slows it down by what the machine takes
/// away and not by a scheduling delay on top.
///
/// One region at a time: `run` from within a region, or from two threads at once, traps.
package final class ComputePool: Sendable {
    /// The most threads a pool may have: beyond that, handing out work costs more than the work.
    package static let threadsMax = 256

    /// Threads that work on a region, the caller included.
    package let threads: Int
    private let shared: PoolState
    private let workers: Mutex<[pthread_t]>

    /// - Parameters:
    ///   - threads: 1…`threadsMax`; 1 runs everything on the caller.
    ///   - pinned: binds each thread to a CPU, but only where the pool has a thread for every CPU this process
    ///     may use; else several processes would crowd onto the same few.
    package init(threads: Int, pinned: Bool = true) throws(KernelError) {
        guard (1...Self.threadsMax).contains(threads) else {
            throw .badShape("threads: 1 to \(Self.threadsMax), got \(threads)")
        }
        self.threads = threads
        let state = PoolState()
        shared = state
        var cpus = [Int32](repeating: 0, count: 1024)
        let allowed = cpus.withUnsafeMutableBufferPointer { Int(ck_allowed_cpus($0.baseAddress, Int32($0.count))) }
        let pin = pinned && threads == allowed
        var started: [pthread_t] = []
        for index in 1..<max(threads, 1) {
            let worker = PoolWorker(index: index, cpu: pin ? cpus[index] : nil, state: state)
            let argument = Unmanaged.passRetained(worker)
            var thread = pthread_t()
            let code = pthread_create(&thread, nil, runPoolWorker, argument.toOpaque())
            guard code == 0 else {
                argument.release()
                state.stop()
                for thread in started { pthread_join(thread, nil) }
                throw .threads(code: code)
            }
            started.append(thread)
        }
        workers = Mutex(started)
    }

    deinit { shutdown() }

    /// Stops and joins the threads. Idempotent; `run` afterwards traps.
    package func shutdown() {
        let threads = workers.withLock { threads in
            defer { threads = [] }
            return threads
        }
        shared.stop()
        for thread in threads { pthread_join(thread, nil) }
    }

    /// Calls `body` with 0..<count, from any of the threads, and returns when all calls have returned.
    ///
    /// Indices are handed out in ascending order to whoever is free. `body` runs concurrently with itself: what
    /// calls with different indices write must be disjoint. Thread stacks are 8 MiB, or the system's default.
    package func run(_ count: Int, _ body: (_ index: Int) -> Void) {
        run(count, worker: { index, _ in body(index) })
    }

    /// As `run`, and tells `body` which thread it is on, 0..<threads, to pick that thread's scratch.
    package func run(_ count: Int, worker body: (_ index: Int, _ worker: Int) -> Void) {
        shared.enter()
        defer { shared.exit() }
        guard threads > 1 && count > 1 else {
            for index in 0..<max(count, 0) { body(index, 0) }
            return
        }
        withoutActuallyEscaping(body) { body in
            withUnsafePointer(to: body) { shared.run(count, $0) }
        }
    }
}

/// What a worker thread is started with.
private final class PoolWorker: Sendable {
    let index: Int
    let cpu: Int32?
    let state: PoolState

    init(index: Int, cpu: Int32?, state: PoolState) {
        self.index = index
        self.cpu = cpu
        self.state = state
    }
}

/// Thread entry. A function at file scope: a closure literal in isolated code would trap as a C callback.
private func runPoolWorker(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let argument else { return nil }
    let worker = Unmanaged<PoolWorker>.fromOpaque(argument).takeRetainedValue()
    ck_name_thread("compute-\(worker.index)")
    // Not being bound costs speed at most.
    if let cpu = worker.cpu { _ = ck_pin(cpu) }
    worker.state.work(as: worker.index)
    return nil
}
