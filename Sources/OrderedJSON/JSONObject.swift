/// The members of a JSON object in the order in which their keys first appeared.
///
/// Looking a key up costs O(1) however many members there are; small objects are scanned. A key that appears
/// twice keeps its first place and its last value, as in Python.
package struct JSONObject: Sendable {
    package typealias Element = (key: String, value: JSON)

    /// Objects up to this size are searched in order: quicker than hashing, and without an index to keep.
    static let scannedCount = 8

    private var members: [Element] = []
    /// Place of each key; empty while the object is small.
    private var places: [ByteString: Int] = [:]

    package init() {}

    /// Members in the given order; of equal keys the last value wins.
    package init(_ elements: some Sequence<(String, JSON)>) {
        for (key, value) in elements { self[key] = value }
    }

    package var keys: [String] { members.map(\.key) }
    package var values: [JSON] { members.map(\.value) }

    /// The value of `key`. Assigning nil removes the member, which costs O(count).
    package subscript(key: String) -> JSON? {
        get {
            place(of: key).map { members[$0].value }
        }
        set {
            if let newValue {
                set(key, newValue)
            } else if let place = place(of: key) {
                members.remove(at: place)
                rebuildPlaces()
            }
        }
    }

    /// Adds a member or replaces the value of one; tells whether the key was there.
    @discardableResult
    mutating func set(_ key: String, _ value: JSON) -> Bool {
        let known: Int?
        if places.isEmpty {
            known = place(of: key)
        } else {
            // One probe both looks up and inserts; undone where the key was known.
            known = places.updateValue(members.count, forKey: ByteString(key))
            if let known { places[ByteString(key)] = known }
        }
        if let known {
            members[known].value = value
            return true
        }
        members.append((key, value))
        if places.isEmpty, members.count > Self.scannedCount { rebuildPlaces() }
        return false
    }

    private func place(of key: String) -> Int? {
        if places.isEmpty {
            let wanted = ByteString(key)
            return members.firstIndex { ByteString($0.key) == wanted }
        }
        return places[ByteString(key)]
    }

    private mutating func rebuildPlaces() {
        places.removeAll()
        guard members.count > Self.scannedCount else { return }
        for (place, member) in members.enumerated() { places[ByteString(member.key)] = place }
    }
}

extension JSONObject: RandomAccessCollection {
    package var startIndex: Int { 0 }
    package var endIndex: Int { members.count }
    package subscript(position: Int) -> Element { members[position] }
}

extension JSONObject: Equatable {
    /// Equal members in any order.
    package static func == (left: JSONObject, right: JSONObject) -> Bool {
        left.count == right.count && left.allSatisfy { right[$0.key] == $0.value }
    }
}

extension JSONObject: ExpressibleByDictionaryLiteral {
    package init(dictionaryLiteral elements: (String, JSON)...) {
        self.init(elements)
    }
}
