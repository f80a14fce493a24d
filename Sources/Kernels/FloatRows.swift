/// Row-major floats that someone else owns; `stride` is the distance between rows, in floats.
package struct FloatRows {
    package let base: UnsafeMutablePointer<Float>
    package let rows: Int
    package let columns: Int
    package let stride: Int

    package init(_ base: UnsafeMutablePointer<Float>, rows: Int, columns: Int, stride: Int? = nil) {
        let stride = stride ?? columns
        precondition(rows >= 0 && columns >= 0 && stride >= columns)
        self.base = base
        self.rows = rows
        self.columns = columns
        self.stride = stride
    }

    /// Row `row`'s first element.
    package subscript(row: Int) -> UnsafeMutablePointer<Float> {
        precondition(row >= 0 && row < rows)
        return base + row * stride
    }
}
