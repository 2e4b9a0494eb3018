//! What a setting of gunicorn or uvicorn becomes: a flag of coring's with a value in its form.

use coring::python::Value;

use super::table::Row;

/// What a setting becomes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing: it is so anyway, or something else follows it.
    Nothing,
    /// A flag of coring's by its long name, and what the operator should know of that.
    Flag(&'static str, Value, Option<&'static str>),
}

/// What the settings of uvicorn say of the address.
#[derive(Debug, Default)]
pub(crate) struct Place {
    host: Option<String>,
    port: Option<String>,
    uds: Option<String>,
}

impl Place {
    pub(crate) fn is_given(&self) -> bool {
        self.host.is_some() || self.port.is_some() || self.uds.is_some()
    }

    /// The address, with the defaults of uvicorn.
    pub(crate) fn address(&self) -> String {
        if let Some(path) = &self.uds {
            return format!("unix:{path}");
        }
        let host = self.host.as_deref().unwrap_or("127.0.0.1");
        let port = self.port.as_deref().unwrap_or("8000");
        match host.contains(':') && !host.starts_with('[') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        }
    }
}

pub(crate) fn is_part_of_address(row: &Row) -> bool {
    ["host", "port", "uds"].contains(&row.name)
}

/// What a setting becomes. `place` takes what belongs to the address.
///
/// # Errors
/// When the value is invalid: why, as the end of a sentence about the setting.
pub(crate) fn effect(row: &Row, value: &Value, place: &mut Place) -> Result<Effect, String> {
    let Some(long) = row.becomes() else {
        return Ok(Effect::Nothing);
    };
    let given = match (row.name, value) {
        // gunicorn takes it for an empty list, not for its default.
        ("forwarded_allow_ips" | "forwarder_headers", Value::None) => {
            return Ok(Effect::Flag(long, Value::Text(String::new()), None));
        }
        (_, Value::None) => return Ok(Effect::Nothing),
        ("errorlog", Value::Text(path)) if path == "-" => return Ok(Effect::Nothing),
        (_, Value::Function | Value::Other(_)) => {
            return Err("has no value of a simple kind".to_owned());
        }
        ("host", _) => &mut place.host,
        ("port", _) => {
            port(value)?;
            &mut place.port
        }
        ("uds", _) => &mut place.uds,
        _ => {
            let (value, remark) = in_form(row, value)?;
            return Ok(Effect::Flag(long, value, remark));
        }
    };
    given.get_or_insert_with(|| one(value));
    Ok(Effect::Nothing)
}

fn port(value: &Value) -> Result<(), String> {
    let is_port = whole(value).is_ok_and(|port| port <= u16::MAX.into());
    let invalid = || format!("is `{}`, which is no port: 0 to 65535", one(value));
    is_port.then_some(()).ok_or_else(invalid)
}

/// A value in the form of coring's flag, and what the operator should know of that.
fn in_form(row: &Row, value: &Value) -> Result<(Value, Option<&'static str>), String> {
    let number = || whole(value);
    let most = u64::from(u16::MAX);
    let (text, remark) = match (row.name, value) {
        ("bind", value) => {
            let all: Vec<String> = match value {
                Value::List(texts) => texts.clone(),
                value => one(value).split(',').map(str::to_owned).collect(),
            };
            let all = all.iter().map(|one| address(one)).collect();
            return Ok((Value::List(all), None));
        }
        ("keepalive" | "timeout_keep_alive", _) => match number()? {
            0 => {
                let remark = "is 0, and connections may be idle for 1 s";
                ("1s".to_owned(), Some(remark))
            }
            seconds => (format!("{seconds}s"), None),
        },
        ("graceful_timeout" | "timeout_graceful_shutdown", _) => match number()? {
            0 => ("1ms".to_owned(), None),
            seconds => (format!("{seconds}s"), None),
        },
        ("limit_request_line", _) => match number()? {
            0 => (most.to_string(), None),
            bytes => (bytes.min(most).to_string(), None),
        },
        ("limit_request_fields", _) => match number()? {
            count @ 1..=256 => (count.to_string(), None),
            _ => (
                "256".to_owned(),
                Some("is 256, the most that coring allows"),
            ),
        },
        ("h11_max_incomplete_event_size", _) => (number()?.clamp(18, most).to_string(), None),
        ("access_log", Value::Bool(is_on)) => {
            let place = if *is_on { "-" } else { "off" };
            (place.to_owned(), None)
        }
        // The form of the mode decides what it is.
        ("umask", _) => (one(value), None),
        _ if is_whole(row.default) => (number()?.to_string(), None),
        (_, Value::Text(text)) if ["True", "False"].contains(&row.default) => {
            match text.trim().to_lowercase().as_str() {
                "true" => return Ok((Value::Bool(true), None)),
                "false" => return Ok((Value::Bool(false), None)),
                _ => return Err(format!("is `{text}`, which is neither true nor false")),
            }
        }
        (_, Value::Text(text)) => (text.trim().to_owned(), None),
        (_, value) => return Ok((value.clone(), None)),
    };
    Ok((Value::Text(text), remark))
}

/// An address in the forms of gunicorn, in those of coring.
pub(crate) fn address(text: &str) -> String {
    let text = text.trim();
    if let Some(path) = text.strip_prefix("unix:") {
        return format!("unix:{}", path.strip_prefix("//").unwrap_or(path));
    }
    let text = text.strip_prefix("tcp://").unwrap_or(text);
    let is_bare = match text.rsplit_once(']') {
        Some((_, rest)) => rest.is_empty(),
        None => !text.is_empty() && !text.contains([':', '/']) && text.parse::<u16>().is_err(),
    };
    match is_bare {
        true => format!("{text}:8000"),
        false => text.to_owned(),
    }
}

/// Whether a value is that which the setting has anyway.
pub(crate) fn is_default(row: &Row, value: &Value) -> bool {
    match value {
        Value::None => true,
        Value::Bool(is_on) => match row.default {
            "True" => *is_on,
            _ => !is_on,
        },
        Value::Text(text) | Value::Other(text) => text == row.default || text == "{}",
        Value::List(texts) => texts.is_empty() || texts.join(",") == row.default,
        _ => false,
    }
}

/// Whether the text of a variable or a file stands for true.
pub(crate) fn is_true(text: &str) -> bool {
    let text = text.trim().to_lowercase();
    ["1", "true", "t", "yes", "y", "on"].contains(&text.as_str())
}

fn is_whole(text: &str) -> bool {
    text.parse::<i64>().is_ok()
}

/// The text of a value.
fn one(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::List(texts) => texts.join(","),
        Value::Bool(is_on) => is_on.to_string(),
        _ => String::new(),
    }
}

/// A whole number that is not negative. As gunicorn does, it takes fractions for whole numbers, as
/// of `cpu_count() * 1.5`, and digits as Python writes them.
fn whole(value: &Value) -> Result<u64, String> {
    let text = match value {
        Value::Bool(is_on) => u8::from(*is_on).to_string(),
        value => one(value),
    };
    let digits = text.trim().to_lowercase();
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
    let is_number = fraction.bytes().all(|byte| byte.is_ascii_digit());
    let number = with_base(whole, &[("0x", 16), ("0o", 8), ("0b", 2), ("", 10)]);
    let number = number.filter(|_| is_number);
    number.ok_or_else(|| format!("is `{text}`, which is no whole number"))
}

/// A number without a sign, in the base of the first prefix that it has.
pub(super) fn with_base(text: &str, bases: &[(&str, u32)]) -> Option<u64> {
    let mut bases = bases.iter();
    let (digits, base) =
        bases.find_map(|(prefix, base)| Some((text.strip_prefix(prefix)?, base)))?;
    let number = u64::from_str_radix(digits, *base).ok();
    number.filter(|_| !digits.starts_with('+'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::table::rows;

    fn effect_of(name: &str, value: Value) -> Result<Effect, String> {
        let rows = rows();
        let row = rows.iter().find(|row| row.name == name).expect(name);
        effect(row, &value, &mut Place::default())
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn values_take_the_form_of_coring() {
        let check = |name, value, long, expected: &str| {
            let Ok(Effect::Flag(found, value, _)) = effect_of(name, value) else {
                panic!("{name}");
            };
            assert_eq!((found, value), (long, text(expected)), "{name}");
        };
        check("workers", text("4"), "workers", "4");
        check("workers", text("4.5"), "workers", "4");
        check("keepalive", text("5"), "idle-timeout", "5s");
        check("keepalive", text("0"), "idle-timeout", "1s");
        check(
            "timeout_graceful_shutdown",
            text("0"),
            "drain-timeout",
            "1ms",
        );
        check("limit_request_line", text("0"), "max-target", "65535");
        check("limit_request_fields", text("1000"), "max-fields", "256");
        check("access_log", Value::Bool(false), "access-log", "off");
        check("accesslog", text("-"), "access-log", "-");
    }

    /// The rules of gunicorn for values, as its own tests have them.
    #[test]
    fn values_are_valid_as_in_gunicorn() {
        let check = |name, value: Value, expected: Option<Value>| {
            let found = effect_of(name, value.clone());
            let found = found.ok().map(|effect| match effect {
                Effect::Flag(_, value, _) => value,
                Effect::Nothing => Value::None,
            });
            assert_eq!(found, expected, "{name} {value:?}");
        };
        check("workers", text("5"), Some(text("5")));
        check("workers", text("0xFF"), Some(text("255")));
        check("workers", Value::Bool(true), Some(text("1")));
        check("workers", text("-21"), None);
        check("workers", Value::Other("object()".to_owned()), None);
        check("preload_app", Value::Bool(true), Some(Value::Bool(true)));
        check("preload_app", text("true"), Some(Value::Bool(true)));
        check("preload_app", text("false"), Some(Value::Bool(false)));
        check("preload_app", text("zilch"), None);
        check("preload_app", Value::Other("{}".to_owned()), None);
        check("proc_name", text(" foo "), Some(text("foo")));
        check("proc_name", Value::None, Some(Value::None));
        for name in ["forwarded_allow_ips", "forwarder_headers"] {
            check(name, Value::None, Some(text("")));
            check(name, text(""), Some(text("")));
        }
        for mode in ["0", "0o0", "0xFF", "0022"] {
            check("umask", text(mode), Some(text(mode)));
        }
    }

    #[test]
    fn values_of_other_kinds_are_refused() {
        let error = effect_of("keepalive", text("soon")).expect_err("is no number");
        assert_eq!(error, "is `soon`, which is no whole number");
        assert!(effect_of("workers", Value::Function).is_err());
        assert_eq!(effect_of("workers", Value::None), Ok(Effect::Nothing));
    }

    #[test]
    fn addresses_of_gunicorn_are_understood() {
        let check = |address_of_gunicorn, expected: &str| {
            assert_eq!(
                address(address_of_gunicorn),
                expected,
                "{address_of_gunicorn}"
            );
        };
        check("0.0.0.0:80", "0.0.0.0:80");
        check("0.0.0.0", "0.0.0.0:8000");
        check("localhost", "localhost:8000");
        check("tcp://10.0.0.1:9", "10.0.0.1:9");
        check("unix:///run/a.sock", "unix:/run/a.sock");
        check("unix:a.sock", "unix:a.sock");
        check("unix://a.sock", "unix:a.sock");
        check("[::1]", "[::1]:8000");
        check("[::]:80", "[::]:80");
        check(":80", ":80");
        check("8080", "8080");
        check("fd://3", "fd://3");
    }

    #[test]
    fn host_and_port_make_an_address() {
        let mut place = Place::default();
        let rows = rows();
        let mut give = |name, value| {
            let row = rows.iter().find(|row| row.name == name).expect(name);
            effect(row, &text(value), &mut place).expect("is valid");
            place.address()
        };
        assert_eq!(give("port", "80"), "127.0.0.1:80");
        assert_eq!(give("port", "81"), "127.0.0.1:80");
        assert_eq!(give("host", "::"), "[::]:80");
        assert_eq!(give("uds", "/run/a"), "unix:/run/a");
    }

    #[test]
    fn defaults_are_recognised() {
        let rows = rows();
        let check = |name, value, expected| {
            let row = rows.iter().find(|row| row.name == name).expect(name);
            assert_eq!(is_default(row, &value), expected, "{name} {value:?}");
        };
        check("daemon", Value::Bool(false), true);
        check("daemon", Value::Bool(true), false);
        check("suppress_ragged_eofs", Value::Bool(true), true);
        check("backlog", text("2048"), true);
        check("backlog", text("64"), false);
        check("worker_tmp_dir", Value::None, true);
        check("worker_tmp_dir", text("/dev/shm"), false);
        check("dirty_apps", Value::List(Vec::new()), true);
        check("pre_request", Value::Function, false);
    }
}
