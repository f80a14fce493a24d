extension UnsafeBufferPointer {
    /// The last element that begins at or before `place`. Elements are in the order of where they begin, the first one at
    /// or before every place that is asked for.
    func last(atOrBefore place: Int, begin: (Element) -> Int) -> Element {
        var (low, high) = (0, count)
        while high - low > 1 {
            let middle = (low + high) / 2
            if begin(self[middle]) <= place { low = middle } else { high = middle }
        }
        return self[low]
    }
}
