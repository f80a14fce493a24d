package import Handoff
import Synchronization
import Threads

/// Runs one role's scheduler and model on a thread of its own. Commands may come from any thread and are applied
/// between steps (a cancel of a prefill between layers); events go out through one closure, on the engine's thread.
/// While there is nothing to do the thread sleeps.
package final class EngineLoop: Sendable {
    private let shared: EngineShared
    private let memory: KVMemory
    private let thread: OwnThread
    private let isShutDown = Mutex(false)

    /// Allocates scratch memory and starts the threads. `onEvent` must not block, and must not call `shutdown`.
    package init(
        model: LoadedModel, memory: KVMemory, options: EngineOptions,
        onEvent: @escaping @Sendable (EngineEvent) -> Void
    ) throws(EngineError) {
        let shared = EngineShared(pages: memory.counts)
        let core = try EngineCore(model: model, memory: memory, options: options, shared: shared, onEvent: onEvent)
        let name = options.role == .prefill ? "prefill-engine" : "decode-engine"
        self.shared = shared
        self.memory = memory
        do throws(ThreadError) {
            // Attention keeps its tiles on the stack.
            thread = try OwnThread(name, stackBytes: 8 << 20) { core.run() }
        } catch {
            throw .memory(reason: error.description)
        }
    }

    deinit { shutdown() }

    /// Prefill role: computes a prompt. Answered by `.started`, then `.pagesReady`, then an ending event.
    package func submit(_ job: PrefillJob) { shared.mailbox.send(.prefill(job)) }

    /// Decode role: continues a sequence, whose slots belong to the engine from here on.
    package func start(_ job: DecodeJob) { shared.mailbox.send(.decode(job)) }

    /// Ends a job: `.finished(id, .cancelled, _)` follows unless it has ended already.
    package func cancel(_ id: HandoffID) { shared.mailbox.send(.cancel(id)) }

    /// Prefill role: nobody reads the job's pages any more. Called once for every job that got `.started`.
    package func releasePrefill(_ id: HandoffID) { shared.mailbox.send(.release(id)) }

    /// Drops the pages of the prefix cache that nobody uses.
    package func dropCache() { shared.mailbox.send(.dropCache) }

    /// Prefill role: no later prompt takes this page from the prefix cache. Pages that are being used stay so.
    package func hideFromCache(_ slot: SlotRef) { shared.mailbox.send(.hide(slot)) }

    /// Says that pages became free outside the engine, for which a sequence may be waiting.
    package func wake() { shared.mailbox.wake() }

    package func snapshot() -> EngineSnapshot {
        var snapshot = shared.snapshot.withLock { $0 }
        snapshot.pages = memory.counts
        return snapshot
    }

    /// Whether the engine moves, for those that watch it.
    package var pulse: EnginePulse {
        EnginePulse(
            ticks: shared.ticks.load(ordering: .relaxed),
            hasWork: shared.isWorking.load(ordering: .relaxed) || !shared.mailbox.isEmpty)
    }

    /// Pages that a decode node leaves free when it grants; see `EngineSnapshot.pagesWanted`.
    package var pagesWanted: Int { shared.pagesWanted.load(ordering: .relaxed) }

    /// Ends the loop after the step in progress and joins its threads. Unfinished jobs fail with `.shutDown`;
    /// no event comes after this returns. Pages that were pinned stay so.
    package func shutdown() {
        isShutDown.withLock { done in
            guard !done else { return }
            done = true
            shared.mailbox.send(.stop)
            thread.join()
        }
    }
}

/// A sign of life of an engine's thread.
package struct EnginePulse: Sendable, Equatable {
    /// Raised with every layer of a step, and with every turn of the loop.
    package let ticks: UInt64
    /// It is within a turn of its loop, or commands wait for it.
    package let hasWork: Bool
}

/// What the loop's thread and everybody else both touch.
final class EngineShared: Sendable {
    enum Command: Sendable {
        case prefill(PrefillJob)
        case decode(DecodeJob)
        case cancel(HandoffID)
        case release(HandoffID)
        case dropCache
        case hide(SlotRef)
        case stop
    }

    let mailbox = Mailbox<Command>()
    let snapshot: Mutex<EngineSnapshot>
    let pagesWanted = Atomic(0)
    let ticks = Atomic<UInt64>(0)
    let isWorking = Atomic(false)

    /// The engine has moved.
    func tick() { ticks.wrappingAdd(1, ordering: .relaxed) }

    init(pages: SlotPool.Counts) { snapshot = Mutex(EngineSnapshot(pages: pages)) }
}
