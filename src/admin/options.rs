//! A tenant's options, of which there is one: how long its device tokens live.

use axum::extract::Request;
use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::ask::{Ask, Words, answer, no_content};
use super::body::{JSON_BYTES, json};
use super::error::ApiError;
use super::text::ReadOnly;
use crate::registry::Change;
use crate::tenant::LIFESPAN_OPTION;
use crate::token::{MAX_LIFESPAN, MIN_LIFESPAN};

/// As the platform names it.
const CATEGORY: &str = LIFESPAN_OPTION.0;
const KEY: &str = LIFESPAN_OPTION.1;

const NOT_SET: &str = "This option is not set.";

#[derive(Serialize)]
struct View<'a> {
    category: &'a str,
    key: &'a str,
    value: &'a str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    value: Value,
    #[serde(default, rename = "category")]
    _category: ReadOnly,
    #[serde(default, rename = "key")]
    _key: ReadOnly,
}

/// The platform sends numbers as texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Number(i64),
}

/// `GET …/options`.
pub async fn list(ask: Ask) -> Result<Response, ApiError> {
    let tenant = ask.tenant()?;
    let state = ask.registry().tenant(&tenant);
    let options: Vec<View<'_>> = state
        .options
        .iter()
        .map(|((category, key), value)| View { category, key, value })
        .collect();
    Ok(answer(StatusCode::OK, &serde_json::json!({ "options": options })))
}

/// `GET …/options/{category}/{key}`.
pub async fn read(ask: Ask) -> Result<Response, ApiError> {
    let tenant = ask.tenant()?;
    known(&ask)?;
    let state = ask.registry().tenant(&tenant);
    let value = state.options.get(&(CATEGORY.to_owned(), KEY.to_owned()));
    let value = value.ok_or_else(|| ApiError::not_found(NOT_SET))?;
    Ok(answer(StatusCode::OK, &View { category: CATEGORY, key: KEY, value }))
}

/// `PUT …/options/{category}/{key}`.
pub async fn update(ask: Ask, request: Request) -> Result<Response, ApiError> {
    let tenant = ask.tenant()?;
    known(&ask)?;
    let Update { value, .. } = json(request, JSON_BYTES).await?;
    let seconds = match value {
        Value::Text(text) => text.trim().parse::<i64>().ok(),
        Value::Number(seconds) => Some(seconds),
    };
    let bounds = i64::from(MIN_LIFESPAN)..=i64::from(MAX_LIFESPAN);
    let seconds = seconds.filter(|seconds| bounds.contains(seconds)).ok_or_else(|| {
        ApiError::unprocessable(format!(
            "{KEY} is a whole number of seconds, at least {MIN_LIFESPAN} and at most \
             {MAX_LIFESPAN}."
        ))
    })?;
    let value = seconds.to_string();
    let target = format!("{tenant}/{CATEGORY}/{KEY}={value}");
    let change = Change::SetOption {
        tenant,
        category: CATEGORY.to_owned(),
        key: KEY.to_owned(),
        value: Some(value.clone()),
    };
    ask.apply("option.set", &target, change, Words::missing(NOT_SET)).await?;
    Ok(answer(StatusCode::OK, &View { category: CATEGORY, key: KEY, value: &value }))
}

/// Back to what the configuration says: `DELETE …/options/{category}/{key}`.
pub async fn delete(ask: Ask) -> Result<Response, ApiError> {
    let tenant = ask.tenant()?;
    known(&ask)?;
    let target = format!("{tenant}/{CATEGORY}/{KEY}");
    let change = Change::SetOption {
        tenant,
        category: CATEGORY.to_owned(),
        key: KEY.to_owned(),
        value: None,
    };
    ask.apply("option.delete", &target, change, Words::missing(NOT_SET)).await?;
    Ok(no_content())
}

fn known(ask: &Ask) -> Result<(), ApiError> {
    match (ask.param("category"), ask.param("key")) {
        (CATEGORY, KEY) => Ok(()),
        _ => Err(ApiError::not_found(format!(
            "There is no such option; the only one is {CATEGORY}/{KEY}."
        ))),
    }
}
