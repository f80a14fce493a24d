import OrderedJSON

/// Any bytes give a value or an error; a value survives being written and read again.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let input = UnsafeRawBufferPointer(start: start, count: count)
    guard let value = try? JSON.parse(input) else { return 0 }
    guard let again = try? JSON.parse(value.text()), again == value else {
        fatalError("what was written does not read back as the same value")
    }
    _ = value.text(.python(ensureASCII: true, indent: 2, sortKeys: true))
    return 0
}
