import ModelFormat
import OrderedJSON

/// A checkpoint whose tensors are holes in sparse files: full size by name, type and shape, next to nothing on disk.
struct HollowCheckpoint {
    struct Tensor {
        var name: String
        var type: TensorType
        var shape: [Int]
    }

    var config: JSONObject
    /// In the order of the files.
    var tensors: [Tensor]

    /// What the config asks for, as published checkpoints have it: BF16 but for the router's bias, and with
    /// `isQuantised` 8-bit projections of the layers, each followed by its scales.
    init(_ config: JSONObject, draftLayer: Bool = false, isQuantised: Bool = false) throws {
        self.config = config
        let expected = try modelConfig(config).expectedTensors(in: .safetensors, draftLayer: draftLayer)
        tensors = []
        for wanted in expected where !wanted.isOptional {
            let name = wanted.name
            let isPlain = name.hasPrefix("lm_head") || name.hasSuffix("eh_proj.weight")
            let block = isQuantised && !isPlain ? wanted.block : nil
            let type: TensorType =
                name.hasSuffix("e_score_correction_bias") ? .f32 : block == nil ? .bf16 : .f8E4M3
            tensors.append(Tensor(name: name, type: type, shape: wanted.shape))
            if let block {
                tensors.append(
                    Tensor(name: name + "_scale_inv", type: .f32, shape: block.scaleShape(of: wanted.shape)))
            }
        }
    }

    /// Changes the tensor of that name.
    mutating func change(_ name: String, _ body: (inout Tensor) -> Void) throws {
        guard let place = tensors.firstIndex(where: { $0.name == name }) else { throw TestFailure("no \(name)") }
        body(&tensors[place])
    }

    mutating func remove(_ name: String) throws {
        guard let place = tensors.firstIndex(where: { $0.name == name }) else { throw TestFailure("no \(name)") }
        tensors.remove(at: place)
    }

    mutating func add(_ name: String, _ type: TensorType, _ shape: [Int]) {
        tensors.append(Tensor(name: name, type: type, shape: shape))
    }

    /// Writes it into a folder, with an index if there are several files.
    func write(to folder: TemporaryFolder, shards: Int = 1) throws {
        try folder.write("config.json", JSON.object(config).bytes())
        var index: [String] = []
        for shard in 0..<shards {
            let file = shards == 1 ? "model.safetensors" : "model-\(shard + 1)-of-\(shards).safetensors"
            let part = tensors[tensors.count * shard / shards..<tensors.count * (shard + 1) / shards]
            var entries: [String] = []
            var offset = 0
            for tensor in part {
                let end = offset + tensor.shape.reduce(tensor.type.blockBytes, *)
                entries.append(
                    #""\#(tensor.name)":{"dtype":"\#(tensor.type)","shape":\#(tensor.shape),"#
                        + #""data_offsets":[\#(offset),\#(end)]}"#)
                offset = end
                index.append(#""\#(tensor.name)":"\#(file)""#)
            }
            let header = Array("{\(entries.joined(separator: ","))}".utf8)
            try folder.write(
                file, little(UInt64(header.count)) + header, paddedTo: 8 + header.count + offset)
        }
        if shards > 1 {
            try folder.write(
                "model.safetensors.index.json", #"{"weight_map":{\#(index.joined(separator: ","))}}"#)
        }
    }

    /// Everything that is wrong with its tensors.
    func problems() throws -> [String] {
        let folder = try TemporaryFolder()
        try write(to: folder)
        let checkpoint = try Checkpoint.open(folder.path)
        do {
            try checkpoint.check()
            return []
        } catch {
            return error.problems
        }
    }
}
