import OrderedJSON

/// How a checkpoint quantises its weights to 8-bit floats (F8_E4M3): each block of `rows` × `columns` of a matrix
/// [out, in] shares one factor, which is in a tensor of its own. The last block of a row or column may be partial.
package struct WeightBlock: Sendable, Equatable {
    package let rows: Int
    package let columns: Int

    package init(rows: Int, columns: Int) {
        self.rows = rows
        self.columns = columns
    }

    /// The only one in use.
    static let supported = WeightBlock(rows: 128, columns: 128)
    private static let scaleSuffix = "_scale_inv"

    /// The tensor that holds the factors of the named weight: weight = 8-bit float × factor of its block.
    package static func scaleName(of weight: String) -> String { weight + scaleSuffix }

    /// The weight whose factors a tensor of this name would hold; nil for other names.
    static func weightName(ofScale name: String) -> String? {
        name.hasSuffix(scaleSuffix) ? String(name.dropLast(scaleSuffix.count)) : nil
    }

    /// The shape of a matrix's factors: [⌈out / rows⌉, ⌈in / columns⌉].
    package func scaleShape(of matrix: [Int]) -> [Int] {
        zip(matrix, [rows, columns]).map { ($0 + $1 - 1) / $1 }
    }

    /// From `quantization_config` in `config.json`; nil if there is none. What the activations are rounded to
    /// (`activation_scheme`) is left out: they stay floats here. So is `modules_to_not_convert`: a tensor's type says
    /// whether it is quantised.
    init?(huggingFace fields: inout ConfigFields) {
        let group = "quantization_config"
        guard fields.value(group) != nil else { return nil }
        self = Self.supported
        guard let method = fields.value("\(group).quant_method")?.string else {
            fields.report("\(group).quant_method is missing; supported: fp8")
            return
        }
        guard method == "fp8" else {
            fields.report("\(group).quant_method is \(shown(method)); supported: fp8")
            return
        }
        fields.require("\(group).fmt", "e4m3")
        let size = fields.value("\(group).weight_block_size")
        if size?.array?.map(\.int) != [rows, columns] {
            fields.report(
                "\(group).weight_block_size is \(size.map { shown($0.text()) } ?? "missing"); "
                    + "supported: [\(rows), \(columns)]")
        }
    }
}
