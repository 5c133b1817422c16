//! Server-sent events out of bytes that arrive in pieces of any size: the `data` of each event, nothing else of it.

/// Largest event, bytes: an SGLang chunk repeats the whole answer so far, some 30 bytes a token.
const EVENT_MAX: usize = 8 << 20;

/// Takes bytes, gives events. A line ends with LF, CRLF or CR; an event with an empty line.
#[derive(Default)]
pub struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
    /// The last byte was a CR: a LF now belongs to it.
    after_cr: bool,
}

impl Events {
    /// The events that these bytes complete.
    ///
    /// # Errors
    /// An event beyond the limit, or one that is no UTF-8: in words.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, String> {
        let mut events = Vec::new();
        for &byte in bytes {
            let second_half = byte == b'\n' && self.after_cr;
            self.after_cr = byte == b'\r';
            match byte {
                _ if second_half => {}
                b'\n' | b'\r' => self.end_line(&mut events)?,
                _ if self.line.len() + self.data.len() < EVENT_MAX => self.line.push(byte),
                _ => return Err(format!("an event of more than {EVENT_MAX} bytes")),
            }
        }
        Ok(events)
    }

    fn end_line(&mut self, events: &mut Vec<String>) -> Result<(), String> {
        if self.line.is_empty() {
            if !self.data.is_empty() {
                // Every data line ended with a LF of ours; the last one is not part of the event.
                self.data.pop();
                let event = String::from_utf8(std::mem::take(&mut self.data));
                events.push(event.map_err(|_| "an event that is no UTF-8".to_string())?);
            }
            return Ok(());
        }
        // Comments (":..") keep a connection alive; `event`, `id` and `retry` say nothing here.
        if let Some(value) = self.line.strip_prefix(b"data:") {
            self.data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
            self.data.push(b'\n');
        }
        self.line.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str =
        ": ping\n\ndata: {\"a\": \"é\"}\n\nevent: x\nid: 7\ndata:one\r\ndata: two\r\n\r\ndata: [DONE]\r\rdata: cut";

    /// Planted: a LF after a CR ends a line of its own. Seen: "one" and "two" are two events.
    #[test]
    fn events_do_not_depend_on_where_the_bytes_are_cut() {
        let expected = ["{\"a\": \"é\"}", "one\ntwo", "[DONE]"];
        let bytes = STREAM.as_bytes();
        assert_eq!(Events::default().push(bytes).unwrap(), expected);
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let mut events = Events::default();
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                let found: Vec<String> = pieces.iter().flat_map(|piece| events.push(piece).unwrap()).collect();
                assert_eq!(found, expected, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn an_event_without_an_end_is_refused() {
        let mut events = Events::default();
        let piece = vec![b'x'; 1 << 20];
        let refused = (0..20).find_map(|_| events.push(&piece).err());
        assert!(refused.unwrap().contains("more than"));
        assert!(Events::default().push(b"data: \xff\n\n").unwrap_err().contains("UTF-8"));
    }
}
