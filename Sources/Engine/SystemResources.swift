import Glibc

/// How much memory this process can still get.
package enum SystemMemory {
    /// The smaller of the system's available memory and what the process's control group leaves.
    package static func availableBytes() -> Int {
        var available = Int.max
        let line = SystemFile.field("MemAvailable:", in: "/proc/meminfo")
        if let kibibytes = line.flatMap({ Int($0.prefix(while: \.isNumber)) }) { available = kibibytes * 1024 }
        if let limit = SystemFile.number("/sys/fs/cgroup/memory.max"),
            let used = SystemFile.number("/sys/fs/cgroup/memory.current")
        {
            available = min(available, max(0, limit - used))
        }
        return available
    }

    /// "1.5 GiB": three digits are enough for a person.
    package static func text(_ bytes: Int) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
        var unit = 0
        var tenths = bytes >= Int.max / 10 ? Int.max : bytes * 10
        while tenths >= 10240, unit < units.count - 1 {
            tenths /= 1024
            unit += 1
        }
        return tenths % 10 == 0 ? "\(tenths / 10) \(units[unit])" : "\(tenths / 10).\(tenths % 10) \(units[unit])"
    }
}

/// How many threads this process can run at once.
package enum Processors {
    /// The processors it may run on, at most as many as its control group pays for; at least 1.
    package static var count: Int {
        var count = 0
        for range in (SystemFile.field("Cpus_allowed_list:", in: "/proc/self/status") ?? "").split(separator: ",") {
            let ends = range.split(separator: "-").compactMap { Int($0) }
            if let first = ends.first, let last = ends.last { count += max(0, last - first + 1) }
        }
        if count == 0 { count = Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))) }
        let quota = (SystemFile.read("/sys/fs/cgroup/cpu.max") ?? "").split { $0 == " " || $0 == "\n" }
        if quota.count == 2, let allowed = Int(quota[0]), let period = Int(quota[1]), period > 0 {
            count = min(count, (allowed + period - 1) / period)
        }
        return max(1, count)
    }
}

/// Small text files of the system.
private enum SystemFile {
    /// The start of a file; nil when it cannot be read.
    static func read(_ path: String) -> String? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: 8192)
        let count = Glibc.read(descriptor, &bytes, bytes.count)
        return count > 0 ? String(decoding: bytes[0..<count], as: UTF8.self) : nil
    }

    /// What follows a name at the start of a line, without the space around it.
    static func field(_ name: String, in path: String) -> Substring? {
        guard let text = read(path) else { return nil }
        guard let line = text.split(separator: "\n").first(where: { $0.hasPrefix(name) }) else { return nil }
        return line.dropFirst(name.count).drop(while: \.isWhitespace)
    }

    /// A file that holds one number; nil for anything else, like "max".
    static func number(_ path: String) -> Int? {
        read(path).flatMap { Int($0.prefix(while: \.isNumber)) }
    }
}
