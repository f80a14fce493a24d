import ControlPlane
package import Handoff
package import Messages

/// What a role does: everything between the control messages on one side, and engine and lanes on the other.
/// All methods may be called from any thread and never wait for an engine step.
package protocol NodeDriver: AnyObject, Sendable {
    /// What this node says of itself to routers.
    var registration: Registration { get }
    /// For heartbeats.
    func load() -> NodeLoad
    /// A router is attached now.
    func attached(_ router: Incarnation)
    /// A message of an attached router.
    func received(_ message: RouterMessage, from router: Incarnation)
    /// A router is gone: what belongs to it ends.
    func lost(_ router: Incarnation)
    /// Called about every 50 ms: deadlines and reports.
    func tick()
    /// Takes no new work from now on.
    func drain()
    /// Nothing is open and nothing runs.
    var isIdle: Bool { get }
    /// Stops lanes and engine and waits for their threads. Blocks; to be called once, after the last message.
    func shutDown()
}
