//! What the servers answer, taken apart. An answer that cannot be what was asked for is an error, never a guess.

use redis::Value;

use crate::log::StoreError;

const DAMAGED: &str = "not what was written: ";

pub(super) fn damaged(what: &str) -> StoreError {
    StoreError(format!("{DAMAGED}{what}"))
}

/// Is there something that cannot be read, however often it is asked for?
pub(crate) fn is_damaged(StoreError(reason): &StoreError) -> bool {
    reason.starts_with(DAMAGED)
        || reason.starts_with("Redis answers DAMAGED ")
        || reason == "Redis answers WRONGTYPE"
}

/// A string, if there is one.
pub(super) fn optional(value: Value) -> Result<Option<Vec<u8>>, StoreError> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes)),
        Value::SimpleString(text) => Ok(Some(text.into_bytes())),
        Value::Int(number) => Ok(Some(number.to_string().into_bytes())),
        _ => Err(damaged("a string")),
    }
}

pub(super) fn string(value: Value) -> Result<Vec<u8>, StoreError> {
    optional(value)?.ok_or_else(|| damaged("a string"))
}

pub(super) fn list(value: Value) -> Result<Vec<Value>, StoreError> {
    match value {
        Value::Array(values) | Value::Set(values) => Ok(values),
        Value::Nil => Ok(Vec::new()),
        _ => Err(damaged("a list")),
    }
}

/// A list of exactly so many.
pub(super) fn tuple<const N: usize>(values: Vec<Value>) -> Result<[Value; N], StoreError> {
    values.try_into().map_err(|_| damaged("a tuple"))
}

pub(super) fn decimal(bytes: &[u8]) -> Result<u64, StoreError> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| damaged("a number"))
}

pub(super) fn number(value: Value) -> Result<u64, StoreError> {
    match value {
        Value::Int(number) => u64::try_from(number).map_err(|_| damaged("a number")),
        // Sequences and positions stay far below 2^53.
        Value::Double(number) if number >= 0.0 => Ok(number as u64),
        other => decimal(&string(other)?),
    }
}

/// The number that a field holds; 0 where there is none.
pub(super) fn number_or_zero(value: Value) -> Result<u64, StoreError> {
    match value {
        Value::Nil => Ok(0),
        other => number(other),
    }
}

/// A field and its value.
type Pair = (Vec<u8>, Vec<u8>);

/// Fields and values of a hash.
pub(super) fn pairs(value: Value) -> Result<Vec<Pair>, StoreError> {
    let map = match value {
        Value::Map(map) => map,
        other => {
            let mut values = list(other)?.into_iter();
            let mut map = Vec::new();
            while let Some(field) = values.next() {
                map.push((field, values.next().ok_or_else(|| damaged("a hash"))?));
            }
            map
        }
    };
    map.into_iter()
        .map(|(field, value)| Ok((string(field)?, string(value)?)))
        .collect()
}

/// Members and scores of a sorted set.
pub(super) fn scores(value: Value) -> Result<Vec<(Vec<u8>, u64)>, StoreError> {
    let values = list(value)?;
    // One list for each member, or all in one, as the protocol's version has it.
    let flat: Vec<Value> = if values.iter().all(|value| matches!(value, Value::Array(_))) {
        let mut flat = Vec::with_capacity(values.len() * 2);
        for value in values {
            flat.extend(list(value)?);
        }
        flat
    } else {
        values
    };
    let mut flat = flat.into_iter();
    let mut scored = Vec::new();
    while let Some(member) = flat.next() {
        let score = flat.next().ok_or_else(|| damaged("a score"))?;
        scored.push((string(member)?, number(score)?));
    }
    Ok(scored)
}

/// The id of a stream's item: what is before the hyphen, and what is behind it.
pub(super) type StreamId = (u64, u64);

/// One item of a stream, with the values of its fields.
pub(super) struct StreamItem {
    pub(super) id: StreamId,
    pub(super) values: Vec<Vec<u8>>,
}

pub(super) fn stream(value: Value) -> Result<Vec<StreamItem>, StoreError> {
    list(value)?.into_iter().map(stream_item).collect()
}

fn stream_item(value: Value) -> Result<StreamItem, StoreError> {
    let [id, fields] = tuple(list(value)?)?;
    let id = string(id)?;
    let hyphen = id
        .iter()
        .position(|byte| *byte == b'-')
        .ok_or_else(|| damaged("an id"))?;
    let id = (decimal(&id[..hyphen])?, decimal(&id[hyphen + 1..])?);
    let values = list(fields)?
        .into_iter()
        .skip(1)
        .step_by(2)
        .map(string)
        .collect::<Result<_, _>>()?;
    Ok(StreamItem { id, values })
}
