/// Lays cells out in columns as wide as their widest cell.
struct TextTable {
    enum Alignment {
        case left, right
    }

    struct Cell {
        var text: String
        var paint: TerminalStyle.Paint?

        init(_ text: String, _ paint: TerminalStyle.Paint? = nil) {
            self.text = text
            self.paint = paint
        }
    }

    private let titles: [String]
    private let alignments: [Alignment]
    private var rows: [[Cell]] = []

    init(_ columns: [(title: String, alignment: Alignment)]) {
        titles = columns.map(\.title)
        alignments = columns.map(\.alignment)
    }

    /// One cell per column.
    mutating func add(_ row: [Cell]) { rows.append(row) }

    func text(_ style: TerminalStyle) -> String {
        let widths = titles.indices.map { column in
            rows.reduce(titles[column].count) { max($0, column < $1.count ? $1[column].text.count : 0) }
        }
        var lines = [line(titles.map { Cell($0, .dim) }, widths, style)]
        lines += rows.map { line($0, widths, style) }
        return lines.joined(separator: "\n")
    }

    private func line(_ cells: [Cell], _ widths: [Int], _ style: TerminalStyle) -> String {
        var parts: [String] = []
        for (column, cell) in cells.enumerated() {
            let gap = String(repeating: " ", count: max(0, widths[column] - cell.text.count))
            let painted = cell.paint.map { style.paint(cell.text, $0) } ?? cell.text
            let isLast = column == cells.count - 1
            parts.append(alignments[column] == .right ? gap + painted : painted + (isLast ? "" : gap))
        }
        return parts.joined(separator: "  ")
    }
}
