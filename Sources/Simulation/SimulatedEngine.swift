package import Handoff

/// What computes in simulated nodes. Without one the pages of a run are marked and hold nothing.
///
/// Slots belong to the life of a process (`Incarnation`). Layers are those of the scenario; whoever has another number of
/// them takes the same share of each page.
package protocol SimulatedEngine: AnyObject {
    /// An attempt is known at its decode node: so many pages hold the prompt and the `delivered` tokens before it, of the
    /// `tokens` that the request wants in all. Prompts of one document are the same in all their pages but the last.
    /// Maybe repeated.
    func reserved(_ handoff: HandoffID, of document: Int, pages: Int, delivered: Int, tokens: Int)

    /// A page's layers come ready in a source slot.
    func computed(_ handoff: HandoffID, page: Int, in source: SlotRef, of prefill: Incarnation, layers: LayerShare)

    /// A write lands: what the source slot holds of these layers now is in the target slot.
    func landed(
        from source: SlotRef, of prefill: Incarnation, in target: SlotRef, of decode: Incarnation, layers: LayerShare,
        isCorrupt: Bool)

    /// A step generates the request's tokens from `first` on, from what the slots hold. Says what is wrong with them.
    func generated(_ handoff: HandoffID, tokens: Range<Int>, from slots: [SlotRef], of decode: Incarnation) -> String?
}

/// Some of a scenario's layers.
package struct LayerShare: Sendable {
    package let layers: Range<Int>
    package let count: Int

    /// Their part of so many bytes.
    package func part(of bytes: Int) -> Range<Int> {
        bytes * layers.lowerBound / count..<bytes * layers.upperBound / count
    }
}
