/// The version that every executable reports.
package enum ProcessVersion {
    package static let text = "0.1.0"
}
