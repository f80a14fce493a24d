import OrderedJSON

/// The weights of a checkpoint in safetensors files: one, or shards named by `model.safetensors.index.json`.
struct SafetensorsCheckpoint: Sendable {
    static let indexName = "model.safetensors.index.json"
    static let singleName = "model.safetensors"
    static let maxIndexBytes = 256 << 20
    static let maxShards = 4096

    let files: [MappedFile]
    let table: TensorTable

    /// A single file.
    init(file path: String) throws(ModelFormatError) {
        let file = try SafetensorsFile(path: path)
        files = [file.file]
        table = file.table
    }

    /// The shards an index names. All of them are opened, and every tensor of the index must be in its shard.
    init(index path: String) throws(ModelFormatError) {
        let weightMap = try Self.readIndex(path)
        var places: [String: Int] = [:]
        var names: [String] = []
        var counts: [Int] = []
        for (_, value) in weightMap {
            let name = value.string ?? ""
            if let place = places[name] {
                counts[place] += 1
            } else {
                places[name] = names.count
                names.append(name)
                counts.append(1)
            }
        }
        guard names.count <= Self.maxShards else {
            throw ModelFormatError(.malformed, path, "\(names.count) shards, the limit is \(Self.maxShards)")
        }
        var files: [MappedFile] = []
        var tensors: [TensorInfo] = []
        var problems: [String] = []
        for (place, name) in names.enumerated() {
            let shard = FileTree.parent(path) + "/" + name
            let file = try MappedFile(path: shard)
            files.append(file)
            // Tensors the index does not give to this shard are ignored, as the reference loaders do.
            let before = tensors.count
            for var tensor in try SafetensorsHeader.parse(file.bytes, subject: shard).tensors
            where weightMap[tensor.name]?.string == name {
                tensor.file = place
                tensors.append(tensor)
            }
            if tensors.count - before != counts[place] {
                problems += Self.missing(weightMap, in: name, having: tensors[before...])
            }
        }
        guard problems.isEmpty else { throw ModelFormatError(.tensors, path, problems) }
        self.files = files
        do {
            table = try TensorTable(tensors)
        } catch {
            throw ModelFormatError(.malformed, path, "tensor \(shown(error.name)) appears twice")
        }
    }

    /// `weight_map` of an index: tensor name to file name, each the plain name of a file beside the index.
    private static func readIndex(_ path: String) throws(ModelFormatError) -> JSONObject {
        let index = try JSONFile.read(path, maxBytes: maxIndexBytes, allowsDuplicateKeys: false)
        guard let weightMap = index["weight_map"]?.object, !weightMap.isEmpty else {
            throw ModelFormatError(.malformed, path, "weight_map must be an object with at least one tensor")
        }
        var problems: [String] = []
        for (tensor, value) in weightMap {
            guard let name = value.string else {
                problems.append("weight_map.\(shown(tensor)) is \(value.kindName), not a string")
                continue
            }
            if name.utf8.contains(UInt8(ascii: "/")) || name.utf8.contains(0) || !name.hasSuffix(".safetensors") {
                problems.append(
                    "weight_map.\(shown(tensor)): \(shown(name)) is not the plain name of a .safetensors file")
            }
        }
        guard problems.isEmpty else { throw ModelFormatError(.malformed, path, problems) }
        return weightMap
    }

    private static func missing(
        _ weightMap: JSONObject, in shard: String, having found: ArraySlice<TensorInfo>
    ) -> [String] {
        let have = Set(found.map { ByteString($0.name) })
        return weightMap.compactMap { name, value in
            value.string == shard && !have.contains(ByteString(name)) ? "\(shown(name)) is not in \(shard)" : nil
        }
    }
}

/// JSON files that come with a model.
enum JSONFile {
    static func read(
        _ path: String, maxBytes: Int, allowsDuplicateKeys: Bool = true
    ) throws(ModelFormatError) -> JSON {
        let file = try MappedFile(path: path, maxBytes: maxBytes)
        do {
            return try file.withBytes { (bytes) throws(JSONError) in
                try JSON.parse(bytes, limits: JSONLimits(allowsDuplicateKeys: allowsDuplicateKeys))
            }
        } catch {
            throw ModelFormatError(path, error)
        }
    }

    /// Nil if there is no such file.
    static func readIfPresent(_ path: String, maxBytes: Int) throws(ModelFormatError) -> JSON? {
        FileTree.exists(path) ? try read(path, maxBytes: maxBytes) : nil
    }
}
