/// A tensor a model needs.
package struct ExpectedTensor: Sendable, Equatable {
    package let name: String
    package let shape: [Int]
    /// May be missing; if there it must have the shape.
    package let isOptional: Bool
    /// Not nil for a matrix that may be of 8-bit floats: then a tensor of scales belongs to it, one for each such block.
    package let block: WeightBlock?
    /// What published checkpoints of such a config store it as. Others are free to differ.
    package let publishedType: TensorType

    package init(
        name: String, shape: [Int], isOptional: Bool = false, block: WeightBlock? = nil,
        publishedType: TensorType = .bf16
    ) {
        self.name = name
        self.shape = shape
        self.isOptional = isOptional
        self.block = block
        self.publishedType = publishedType
    }
}

extension TensorTable {
    /// What stands between these tensors and the expected ones: every missing, misshapen, unsupported or
    /// unexpected one by name. A weight's own type decides whether its scales are expected.
    package func problems(expecting expected: [ExpectedTensor]) -> [String] {
        var problems: [String] = []
        var isKnown = [Bool](repeating: false, count: tensors.count)
        var allComputable = true
        for wanted in expected {
            guard let place = place(of: wanted.name) else {
                if !wanted.isOptional { problems.append("\(wanted.name) is missing (shape \(wanted.shape))") }
                continue
            }
            isKnown[place] = true
            let found = tensors[place]
            if found.shape != wanted.shape {
                problems.append("\(wanted.name) has shape \(found.shape), the config asks for \(wanted.shape)")
            }
            if found.type == .f8E4M3, let block = wanted.block {
                let scale = ExpectedTensor(
                    name: WeightBlock.scaleName(of: wanted.name), shape: block.scaleShape(of: wanted.shape))
                if let place = self.place(of: scale.name) { isKnown[place] = true }
                problems += self.problems(expectingScales: scale)
            } else if found.type.elementType == nil || found.type == .f8E4M3 {
                allComputable = false
                let hint = found.type == .f8E4M3 ? ": by the config it has no scales" : ""
                problems.append("\(wanted.name) has the unsupported type \(found.type)\(hint)")
            }
        }
        if !allComputable { problems.append("supported types: \(TensorType.computableNames)") }
        for (tensor, isKnown) in zip(tensors, isKnown) where !isKnown {
            problems.append("\(shown(tensor.name)) \(tensor.shape) is no tensor of this model\(hint(tensor.name))")
        }
        return problems
    }

    private func problems(expectingScales scale: ExpectedTensor) -> [String] {
        guard let found = self[scale.name] else {
            return ["\(scale.name) is missing (F32, shape \(scale.shape)): its weight is F8_E4M3"]
        }
        var problems: [String] = []
        if found.shape != scale.shape {
            problems.append("\(scale.name) has shape \(found.shape), its weight asks for \(scale.shape)")
        }
        if found.type != .f32 { problems.append("\(scale.name) has the type \(found.type); supported: F32") }
        return problems
    }

    /// Why scales are not expected although their weight is there.
    private func hint(_ name: String) -> String {
        guard let weight = WeightBlock.weightName(ofScale: name).flatMap({ self[$0] }), weight.type != .f8E4M3 else {
            return ""
        }
        return ": \(shown(weight.name)) is \(weight.type), not F8_E4M3"
    }
}
