import Glibc

/// A file mapped read-only into memory.
///
/// The size is taken once, at opening; every range handed out was checked against it. Nobody can keep another
/// process from truncating the file afterwards: touching pages past its new end then raises SIGBUS, as with any
/// mapped file. Model files must be replaced by renaming, not rewritten in place, while a node runs.
///
/// Sendable although it holds a pointer: the mapping is never written, never moved, and lives until `deinit`.
package final class MappedFile: @unchecked Sendable {
    package let path: String
    /// The whole file; valid while this object lives, which a pointer alone does not ensure: hold the object in a
    /// property, or use `withBytes`.
    package let bytes: UnsafeRawBufferPointer

    /// Maps a regular file of at most `maxBytes`.
    package init(path: String, maxBytes: Int = Int.max) throws(ModelFormatError) {
        self.path = path
        // Without O_NONBLOCK opening a named pipe would wait for a writer.
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { throw Self.failure(path, "cannot be opened") }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw Self.failure(path, "has no readable status") }
        guard status.st_mode & S_IFMT == S_IFREG else {
            throw ModelFormatError(.file, path, "is not a regular file")
        }
        let count = Int(status.st_size)
        guard count <= maxBytes else {
            throw ModelFormatError(.file, path, "its \(count) bytes exceed the limit of \(maxBytes)")
        }
        guard count > 0 else {
            bytes = UnsafeRawBufferPointer(start: nil, count: 0)
            return
        }
        let address = mmap(nil, count, PROT_READ, MAP_PRIVATE, descriptor, 0)
        guard let address, address != MAP_FAILED else { throw Self.failure(path, "cannot be mapped") }
        bytes = UnsafeRawBufferPointer(start: address, count: count)
    }

    /// A copy of bytes that are in memory already, under the name `label`.
    package init(label: String, copying content: UnsafeRawBufferPointer) throws(ModelFormatError) {
        path = label
        guard content.count > 0 else {
            bytes = UnsafeRawBufferPointer(start: nil, count: 0)
            return
        }
        let address = mmap(nil, content.count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let address, address != MAP_FAILED else { throw Self.failure(label, "finds no memory") }
        UnsafeMutableRawBufferPointer(start: address, count: content.count).copyMemory(from: content)
        bytes = UnsafeRawBufferPointer(start: address, count: content.count)
    }

    deinit {
        if let base = bytes.baseAddress { munmap(UnsafeMutableRawPointer(mutating: base), bytes.count) }
    }

    /// Lends the whole file to `body`, keeping it mapped meanwhile.
    package func withBytes<Result, Failure>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        defer { withExtendedLifetime(self) {} }
        return try body(bytes)
    }

    /// `range` of the file. The range must have been checked against `bytes.count`; otherwise this traps.
    package func slice(_ range: Range<Int>) -> UnsafeRawBufferPointer {
        precondition(range.lowerBound >= 0 && range.upperBound <= bytes.count, "slice outside the mapped file")
        return UnsafeRawBufferPointer(rebasing: bytes[range])
    }

    /// What the kernel should do about the pages of a range.
    package enum Advice: Sendable {
        /// Start reading them in.
        case willNeed
        /// They may be dropped; they come back from the file when touched again.
        case dontNeed
        /// Single pages will be touched here and there: read nothing around them.
        case random
        /// The default again, after `random`.
        case normal

        fileprivate var flag: CInt {
            switch self {
            case .willNeed: MADV_WILLNEED
            case .dontNeed: MADV_DONTNEED
            case .random: MADV_RANDOM
            case .normal: MADV_NORMAL
            }
        }
    }

    /// Passes advice on; pages only partly inside the range are left out. Failure is harmless and ignored.
    package func advise(_ advice: Advice, _ range: Range<Int>) {
        let page = Int(sysconf(Int32(_SC_PAGESIZE)))
        let clamped = range.clamped(to: 0..<bytes.count)
        let start = (clamped.lowerBound + page - 1) / page * page
        guard let base = bytes.baseAddress, start < clamped.upperBound else { return }
        madvise(UnsafeMutableRawPointer(mutating: base + start), clamped.upperBound - start, advice.flag)
    }

    /// The same for the whole file.
    func adviseAll(_ advice: Advice) { advise(advice, 0..<bytes.count) }

    private static func failure(_ path: String, _ what: String) -> ModelFormatError {
        ModelFormatError(.file, path, "\(what): \(String(cString: strerror(errno)))")
    }
}

/// Questions about paths that need no file to be open.
enum FileTree {
    static func isDirectory(_ path: String) -> Bool {
        var status = stat()
        return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
    }

    static func exists(_ path: String) -> Bool {
        access(path, F_OK) == 0
    }

    /// Names in a folder, sorted; empty if it cannot be read.
    static func names(in directory: String) -> [String] {
        guard let stream = opendir(directory) else { return [] }
        defer { closedir(stream) }
        var names: [String] = []
        while let entry = readdir(stream) {
            // d_name lies inside the record readdir returned and ends with a zero byte.
            let offset = MemoryLayout<dirent>.offset(of: \.d_name) ?? 0
            let name = UnsafeRawPointer(entry).advanced(by: offset).assumingMemoryBound(to: CChar.self)
            names.append(String(cString: name))
        }
        return names.sorted()
    }

    /// The last component of a path.
    static func name(_ path: String) -> String {
        String(path.split(separator: "/").last ?? "/")
    }

    /// The folder that holds a file.
    static func parent(_ path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }
}
