//! The packets of TFTP and their bytes.

use std::fmt;

/// Names and values longer than this are no file of ours.
const TEXT_BYTES_MAX: usize = 255;
/// Options per request; firmware sends four at most.
const OPTIONS_MAX: usize = 16;

/// An error number (RFC 1350 appendix, RFC 2347).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ErrorCode(pub u16);

impl ErrorCode {
    /// See the message.
    pub const NOT_DEFINED: Self = Self(0);
    /// No such file.
    pub const NOT_FOUND: Self = Self(1);
    /// Not allowed: writing, for one.
    pub const ACCESS: Self = Self(2);
    /// Not a packet that belongs here.
    pub const ILLEGAL: Self = Self(4);
    /// The options do not suit (RFC 2347). EDK2 also uses it to end a size probe.
    pub const OPTION_REFUSED: Self = Self(8);
}

/// A read or write request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The file name as sent.
    pub file: String,
    /// `octet`, `netascii` or `mail`, lower case.
    pub mode: String,
    /// Option names (lower case) and values, in the order sent, the first of each name.
    pub options: Vec<(String, String)>,
}

impl Request {
    /// The value of an option, if it was asked for.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.file, self.mode)?;
        for (name, value) in &self.options {
            write!(f, ", {name} {value}")?;
        }
        f.write_str(")")
    }
}

/// One packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Read request.
    Read(Request),
    /// Write request; always refused.
    Write(Request),
    /// A block of the file.
    Data {
        /// Block number, modulo 65536.
        block: u16,
        /// The bytes; shorter than the block size in the last block.
        payload: &'a [u8],
    },
    /// Acknowledges this block and all before it.
    Ack(u16),
    /// Ends the transfer.
    Error {
        /// Its number.
        code: ErrorCode,
        /// Its text.
        message: String,
    },
    /// The options that the server grants.
    OptionAck(Vec<(String, String)>),
}

/// Why bytes are not a TFTP packet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseTftpError {
    /// Shorter than the fields of its kind.
    #[error("TFTP packet of {len} bytes is cut short")]
    TooShort {
        /// Bytes received.
        len: usize,
    },
    /// Unknown operation.
    #[error("TFTP packet has unknown operation {0}")]
    Opcode(u16),
    /// A text field without its NUL, or too long.
    #[error("TFTP request has a text field without end, or of more than {TEXT_BYTES_MAX} bytes")]
    Text,
    /// Too many options.
    #[error("TFTP request has more than {OPTIONS_MAX} options")]
    TooManyOptions,
}

impl<'a> Packet<'a> {
    /// Reads a packet.
    ///
    /// # Errors
    /// [`ParseTftpError`] says what is wrong with it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseTftpError> {
        let too_short = ParseTftpError::TooShort { len: bytes.len() };
        let [high, low, rest @ ..] = bytes else {
            return Err(too_short);
        };
        let number = match rest {
            [high, low, ..] => Some(u16::from_be_bytes([*high, *low])),
            _ => None,
        };
        match u16::from_be_bytes([*high, *low]) {
            1 => Ok(Self::Read(parse_request(rest)?)),
            2 => Ok(Self::Write(parse_request(rest)?)),
            3 => Ok(Self::Data {
                block: number.ok_or(too_short)?,
                payload: &rest[2..],
            }),
            4 => Ok(Self::Ack(number.ok_or(too_short)?)),
            5 => Ok(Self::Error {
                code: ErrorCode(number.ok_or(too_short)?),
                // EDK2 and others leave the closing NUL out when they are in a hurry.
                message: lossy(
                    rest[2..]
                        .split(|byte| *byte == 0)
                        .next()
                        .unwrap_or_default(),
                ),
            }),
            6 => Ok(Self::OptionAck(parse_options(rest)?)),
            opcode => Err(ParseTftpError::Opcode(opcode)),
        }
    }

    /// The packet's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        match self {
            Self::Read(request) => encode_request(&mut bytes, 1, request),
            Self::Write(request) => encode_request(&mut bytes, 2, request),
            Self::Data { block, payload } => {
                bytes.extend(3u16.to_be_bytes());
                bytes.extend(block.to_be_bytes());
                bytes.extend_from_slice(payload);
            }
            Self::Ack(block) => {
                bytes.extend(4u16.to_be_bytes());
                bytes.extend(block.to_be_bytes());
            }
            Self::Error { code, message } => {
                bytes.extend(5u16.to_be_bytes());
                bytes.extend(code.0.to_be_bytes());
                put_text(&mut bytes, message);
            }
            Self::OptionAck(options) => {
                bytes.extend(6u16.to_be_bytes());
                put_options(&mut bytes, options);
            }
        }
        bytes
    }
}

fn parse_request(bytes: &[u8]) -> Result<Request, ParseTftpError> {
    let (file, rest) = take_text(bytes)?;
    let (mode, rest) = take_text(rest)?;
    Ok(Request {
        file,
        mode: mode.to_ascii_lowercase(),
        options: parse_options(rest)?,
    })
}

fn parse_options(mut rest: &[u8]) -> Result<Vec<(String, String)>, ParseTftpError> {
    let mut options: Vec<(String, String)> = Vec::new();
    // Some firmware pads its request with zeros: an empty name ends the options.
    while rest.first().is_some_and(|byte| *byte != 0) {
        let (name, after_name) = take_text(rest)?;
        let (value, after_value) = take_text(after_name)?;
        let name = name.to_ascii_lowercase();
        if options.len() == OPTIONS_MAX {
            return Err(ParseTftpError::TooManyOptions);
        }
        if options.iter().all(|(known, _)| *known != name) {
            options.push((name, value));
        }
        rest = after_value;
    }
    Ok(options)
}

fn take_text(bytes: &[u8]) -> Result<(String, &[u8]), ParseTftpError> {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .ok_or(ParseTftpError::Text)?;
    let text = lossy(&bytes[..end]);
    // as text, which is longer than the bytes were where they are no UTF-8
    if text.len() > TEXT_BYTES_MAX {
        return Err(ParseTftpError::Text);
    }
    Ok((text, &bytes[end + 1..]))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn encode_request(bytes: &mut Vec<u8>, opcode: u16, request: &Request) {
    bytes.extend(opcode.to_be_bytes());
    put_text(bytes, &request.file);
    put_text(bytes, &request.mode);
    put_options(bytes, &request.options);
}

fn put_options(bytes: &mut Vec<u8>, options: &[(String, String)]) {
    for (name, value) in options {
        put_text(bytes, name);
        put_text(bytes, value);
    }
}

/// Writes text up to its first NUL, which would end it on the wire anyway.
fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend(text.bytes().take_while(|byte| *byte != 0));
    bytes.push(0);
}
