//! Writes values in the format of Python's `marshal` module, which its interpreter reads faster
//! than any other. It knows no requests and no sockets.
//!
//! The types written here have kept their form since Python 3.4 (Python/marshal.c). References
//! (version 3 and later) are not written: reading them costs more than they save.

/// A value under construction. Containers are opened, filled by further calls, and, in the case of
/// a dictionary, closed.
#[derive(Debug, Default)]
pub(super) struct Marshal(Vec<u8>);

impl Marshal {
    /// An empty value with room for `bytes`.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// The finished value.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Opens a tuple; the next `len` values are its items.
    pub(super) fn tuple(&mut self, len: u8) {
        self.0.extend_from_slice(&[b')', len]);
    }

    /// Opens a list; the next `len` values are its items.
    pub(super) fn list(&mut self, len: usize) {
        self.0.push(b'[');
        self.len(len);
    }

    /// Opens a dictionary; keys and values follow in turn, then [`Marshal::end_dict`].
    pub(super) fn dict(&mut self) {
        self.0.push(b'{');
    }

    /// Closes the innermost dictionary.
    pub(super) fn end_dict(&mut self) {
        self.0.push(b'0');
    }

    /// `None`.
    pub(super) fn none(&mut self) {
        self.0.push(b'N');
    }

    /// `True` or `False`.
    pub(super) fn bool(&mut self, value: bool) {
        self.0.push(if value { b'T' } else { b'F' });
    }

    /// An `int`.
    pub(super) fn int(&mut self, value: i32) {
        self.0.push(b'i');
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A `float`.
    pub(super) fn float(&mut self, value: f64) {
        self.0.push(b'g');
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A `bytes`.
    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.0.push(b's');
        self.len(value.len());
        self.0.extend_from_slice(value);
    }

    /// A `bytes`, with ASCII letters in lower case.
    pub(super) fn lowercase(&mut self, value: &[u8]) {
        let at = self.0.len() + 5;
        self.bytes(value);
        self.0[at..].make_ascii_lowercase();
    }

    /// A `str`.
    pub(super) fn text(&mut self, value: &str) {
        if value.is_ascii() {
            self.ascii(value.as_bytes());
        } else {
            self.0.push(b'u');
            self.len(value.len());
            self.0.extend_from_slice(value.as_bytes());
        }
    }

    /// A `str` whose code points are these bytes, as PEP 3333 wants every variable of an environ.
    pub(super) fn latin1(&mut self, value: &[u8]) {
        if value.is_ascii() {
            self.ascii(value);
        } else {
            let text: String = value.iter().map(|&byte| char::from(byte)).collect();
            self.text(&text);
        }
    }

    fn ascii(&mut self, value: &[u8]) {
        match u8::try_from(value.len()) {
            Ok(len) => self.0.extend_from_slice(&[b'z', len]),
            Err(_) => {
                self.0.push(b'a');
                self.len(value.len());
            }
        }
        self.0.extend_from_slice(value);
    }

    /// # Panics
    /// Beyond 2 GiB, which `marshal` cannot express.
    fn len(&mut self, len: usize) {
        let len = i32::try_from(len).expect("values of less than 2 GiB");
        self.0.extend_from_slice(&len.to_le_bytes());
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A value as Python would read it.
    #[derive(Debug, Clone, PartialEq)]
    pub(in crate::python) enum Value {
        None,
        Bool(bool),
        Int(i32),
        Float(f64),
        Bytes(Vec<u8>),
        Text(String),
        Items(Vec<Self>),
        Dict(Vec<(Self, Self)>),
    }

    /// Reads one value, as Python/marshal.c does.
    pub(in crate::python) fn read(bytes: &mut &[u8]) -> Option<Value> {
        let kind = take(bytes, 1)[0];
        Some(match kind {
            b'0' => return None,
            b'N' => Value::None,
            b'T' | b'F' => Value::Bool(kind == b'T'),
            b'i' => Value::Int(number(bytes)),
            b'g' => Value::Float(f64::from_le_bytes(take(bytes, 8).try_into().unwrap())),
            b's' => Value::Bytes(sized(bytes)),
            b'u' | b'a' => Value::Text(String::from_utf8(sized(bytes)).expect("UTF-8")),
            b'z' => {
                let len = take(bytes, 1)[0].into();
                Value::Text(String::from_utf8(take(bytes, len).to_vec()).expect("ASCII"))
            }
            b')' => {
                let len = take(bytes, 1)[0];
                Value::Items((0..len).map(|_| read(bytes).expect("an item")).collect())
            }
            b'[' => {
                let len = number(bytes);
                Value::Items((0..len).map(|_| read(bytes).expect("an item")).collect())
            }
            b'{' => {
                let mut items = Vec::new();
                while let Some(key) = read(bytes) {
                    items.push((key, read(bytes).expect("a value")));
                }
                Value::Dict(items)
            }
            other => panic!("unknown type {other}"),
        })
    }

    impl Value {
        /// The value of a dictionary's key.
        pub(in crate::python) fn get(&self, key: &str) -> Option<&Self> {
            let Self::Dict(items) = self else {
                panic!("{self:?} is not a dictionary")
            };
            let key = Self::Text(key.to_owned());
            let mut found = items.iter().filter(|(other, _)| *other == key);
            let value = found.next().map(|(_, value)| value);
            assert!(found.next().is_none(), "{key:?} is there twice");
            value
        }
    }

    fn take<'a>(bytes: &mut &'a [u8], len: usize) -> &'a [u8] {
        let (first, rest) = bytes.split_at(len);
        *bytes = rest;
        first
    }

    fn number(bytes: &mut &[u8]) -> i32 {
        i32::from_le_bytes(take(bytes, 4).try_into().unwrap())
    }

    fn sized(bytes: &mut &[u8]) -> Vec<u8> {
        let len = usize::try_from(number(bytes)).expect("a length");
        take(bytes, len).to_vec()
    }

    /// What Python 3.13 writes: `marshal.dumps((1, b"a", "b", "ä", None, True, 0.5), 4)`, without
    /// references.
    #[test]
    fn values_have_the_form_that_python_reads() {
        let mut out = Marshal::with_capacity(0);
        out.tuple(7);
        out.int(1);
        out.bytes(b"a");
        out.text("b");
        out.text("ä");
        out.none();
        out.bool(true);
        out.float(0.5);
        let expected = b")\x07i\x01\0\0\0s\x01\0\0\0az\x01bu\x02\0\0\0\xc3\xa4NTg\0\0\0\0\0\0\xe0?";
        assert_eq!(out.into_bytes(), expected);
    }

    #[test]
    fn text_of_any_length_is_read_back() {
        for len in [0, 1, 254, 255, 256, 70_000] {
            let mut out = Marshal::with_capacity(0);
            out.dict();
            out.text("ascii");
            out.text(&"x".repeat(len));
            out.text("latin1");
            out.latin1(&vec![0xe9; len]);
            out.end_dict();
            let bytes = out.into_bytes();
            let value = read(&mut &bytes[..]).expect("a value");
            assert_eq!(value.get("ascii"), Some(&Value::Text("x".repeat(len))));
            assert_eq!(value.get("latin1"), Some(&Value::Text("é".repeat(len))));
        }
    }
}
