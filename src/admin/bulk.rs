//! Registration of many devices by one CSV file, of any length: rows are registered while the
//! rest comes in. A row that cannot be registered is told with its reason and its line, and
//! keeps no other from being registered.

use std::collections::HashMap;
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::ask::{Ask, answer};
use super::body::{Sink, csv_pieces};
use super::csv::{Csv, HeaderFault, Item, Row};
use super::error::ApiError;
use super::text::check_name;
use crate::clock::UnixSeconds;
use crate::names::{DeviceId, TenantId};
use crate::registry::{
    Change, DeviceOutcome, MAX_REGISTRATIONS, Outcome, RegisteredBy, Registration,
};

/// Between two pieces of the file.
const IDLE: Duration = Duration::from_secs(30);
/// From the end of the request's header to the end of the file.
const TOTAL: Duration = Duration::from_secs(3_600);
/// Entries of each list in the answer; the counts are exact.
const LISTED: usize = 10_000;
/// Tenants of one file that are remembered; further ones are looked up row by row.
const TENANTS: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BulkQuery {
    tenant: Option<String>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    number_of_all: u64,
    number_of_created: u64,
    number_of_failed: u64,
    number_of_successful: u64,
    credential_updated_list: Vec<Updated>,
    failed_creation_list: Vec<Failed>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Updated {
    bulk_new_device_status: &'static str,
    device_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Failed {
    bulk_new_device_status: &'static str,
    device_id: String,
    failure_reason: String,
    /// Of the row, from 1. A text, as the platform has it.
    line: String,
}

/// `POST /devicecontrol/bulkNewDeviceRequests`.
pub async fn register(ask: Ask, request: Request) -> Result<Response, ApiError> {
    let query: BulkQuery = ask.query()?;
    let own = ask.principal().tenant().map(TenantId::as_str);
    let tenant = match query.tenant.as_deref().or(own) {
        Some(id) => Some(ask.visible(id)?.id().clone()),
        None => None,
    };
    let _own = ask.principal().upload()?;
    let _place = ask.admin.uploads.try_acquire().map_err(|_| {
        ApiError::too_many(5, "Four bulk registrations are running; wait for one to end.")
    })?;
    let mut intake = Intake::new(&ask, tenant);
    let read = csv_pieces(request, IDLE, TOTAL, &mut intake).await;
    let report = match read {
        Ok(()) => intake.finish().await?,
        Err(error) => {
            let report = intake.break_off().await;
            ask.log("device.bulk", &format!("{} created, broken off", report.number_of_created));
            return Err(match report.number_of_all {
                0 => error,
                rows => error.after(format!(
                    "{rows} rows had been read, of which {} were registered and {} were there \
                     already; send the file again, which changes nothing for these.",
                    report.number_of_created,
                    report.number_of_successful - report.number_of_created
                )),
            });
        }
    };
    let (created, failed) = (report.number_of_created, report.number_of_failed);
    ask.log("device.bulk", &format!("{created} created, {failed} failed"));
    Ok(answer(StatusCode::CREATED, &report))
}

/// Rows on their way into the registry.
struct Intake<'a> {
    ask: &'a Ask,
    /// Every row's, where it is given.
    tenant: Option<TenantId>,
    csv: Option<Csv>,
    columns: Option<Columns>,
    waiting: Vec<(u64, Registration)>,
    tenants: HashMap<String, TenantId>,
    /// The registry failed: nothing more is tried.
    failed: bool,
    report: Report,
}

/// Where each column stands.
struct Columns {
    id: usize,
    auth_type: usize,
    credentials: Option<usize>,
    tenant: Option<usize>,
    device_type: Option<usize>,
    name: Option<usize>,
}

impl Sink for Intake<'_> {
    async fn piece(&mut self, piece: &[u8]) -> Result<(), ApiError> {
        // In small steps, so that rows never gather further than one batch.
        for part in piece.chunks(4 * 1024) {
            let mut items = Vec::new();
            if let Some(csv) = &mut self.csv {
                csv.feed(part, &mut |item| items.push(item)).map_err(unreadable)?;
            }
            self.take(items).await?;
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<(), ApiError> {
        let mut items = Vec::new();
        if let Some(csv) = self.csv.take() {
            csv.finish(&mut |item| items.push(item)).map_err(unreadable)?;
        }
        self.take(items).await
    }
}

fn unreadable(fault: HeaderFault) -> ApiError {
    ApiError::unprocessable(fault.to_string())
}

impl Intake<'_> {
    fn new(ask: &Ask, tenant: Option<TenantId>) -> Intake<'_> {
        Intake {
            ask,
            tenant,
            csv: Some(Csv::default()),
            columns: None,
            waiting: Vec::new(),
            tenants: HashMap::new(),
            failed: false,
            report: Report::default(),
        }
    }

    /// Registers the rest of a file that was read to its end.
    async fn finish(mut self) -> Result<Report, ApiError> {
        self.flush().await;
        if self.failed && self.report.number_of_successful == 0 {
            return Err(ApiError::unavailable(
                "The registry cannot be used now; no row was registered.",
            ));
        }
        Ok(self.report)
    }

    /// Registers what was read whole.
    async fn break_off(mut self) -> Report {
        self.flush().await;
        self.report
    }

    async fn take(&mut self, items: Vec<Item>) -> Result<(), ApiError> {
        for item in items {
            match item {
                Item::Header(names) => self.columns = Some(Columns::find(&names)?),
                Item::Row(row) => {
                    self.row(row);
                    if self.waiting.len() >= MAX_REGISTRATIONS {
                        self.flush().await;
                    }
                }
            }
        }
        Ok(())
    }

    fn row(&mut self, row: Row) {
        self.report.number_of_all += 1;
        let Some(columns) = &self.columns else { return };
        let fields = match row.fields {
            Ok(fields) => fields,
            Err(fault) => return self.report.fail(row.line, "", fault.to_string()),
        };
        let field = |column: Option<usize>| {
            let text = column.and_then(|column| fields.get(column));
            text.map_or_else(String::new, |text| text.trim().to_owned())
        };
        let id = field(Some(columns.id));
        let now = self.ask.now();
        let read = columns.check(&field).and_then(|draft| {
            let tenant = find_tenant(
                self.ask,
                self.tenant.as_ref(),
                &mut self.tenants,
                &field(columns.tenant),
            )?;
            Ok(draft.of(tenant, now))
        });
        match read {
            Ok(registration) if self.failed => {
                let reason = "not tried, because the registry cannot be used now";
                self.report.fail(row.line, registration.device.as_str(), reason.to_owned());
            }
            Ok(registration) => self.waiting.push((row.line, registration)),
            Err(reason) => self.report.fail(row.line, &id, reason),
        }
    }

    /// Registers the rows that wait, tenant by tenant.
    async fn flush(&mut self) {
        let mut by_tenant: HashMap<TenantId, Vec<(u64, Registration)>> = HashMap::new();
        for (line, registration) in self.waiting.drain(..) {
            by_tenant.entry(registration.tenant.clone()).or_default().push((line, registration));
        }
        for (tenant, rows) in by_tenant {
            let devices = rows.iter().map(|(_, registration)| registration.clone()).collect();
            let change = Change::RegisterDevices { tenant, devices };
            let result = match self.failed {
                true => None,
                false => Some(self.ask.registry().apply(&self.ask.actor(), change).await),
            };
            match result {
                Some(Ok(Outcome::Devices(outcomes))) if outcomes.len() == rows.len() => {
                    for ((_, registration), outcome) in rows.into_iter().zip(outcomes) {
                        self.report.done(registration.device, outcome);
                    }
                }
                other => {
                    if let Some(Err(error)) = &other {
                        tracing::error!(target: "portcullis::admin", %error, "bulk registration");
                    }
                    let reason = match other {
                        Some(Ok(Outcome::Limit(limit))) => limit,
                        _ => {
                            self.failed = true;
                            "the registry did not answer; to send it again is safe"
                        }
                    };
                    for (line, registration) in rows {
                        self.report.fail(line, registration.device.as_str(), reason.to_owned());
                    }
                }
            }
        }
    }
}

/// The tenant of a row.
fn find_tenant(
    ask: &Ask,
    given: Option<&TenantId>,
    known: &mut HashMap<String, TenantId>,
    column: &str,
) -> Result<TenantId, String> {
    match (given, column) {
        (Some(tenant), "") => Ok(tenant.clone()),
        (Some(tenant), named) if tenant.as_str() == named => Ok(tenant.clone()),
        (Some(_), _) => Err("TENANT is another one than this request is for".to_owned()),
        (None, "") => Err("TENANT is missing, and the request names none".to_owned()),
        (None, named) => {
            let look_up = |id: &str| ask.visible(id).ok().map(|entry| entry.id().clone());
            remembered(known, named, look_up)
                .ok_or_else(|| "TENANT: there is no such tenant".to_owned())
        }
    }
}

/// What was found before, or is found now. What is not there is not remembered: its name may be
/// as long as a row.
fn remembered(
    known: &mut HashMap<String, TenantId>,
    named: &str,
    look_up: impl FnOnce(&str) -> Option<TenantId>,
) -> Option<TenantId> {
    if let Some(found) = known.get(named) {
        return Some(found.clone());
    }
    let found = look_up(named)?;
    if known.len() < TENANTS {
        known.insert(named.to_owned(), found.clone());
    }
    Some(found)
}

impl Columns {
    fn find(names: &[String]) -> Result<Columns, ApiError> {
        let column = |name: &str| {
            let mut places =
                names.iter().enumerate().filter(|(_, column)| column.eq_ignore_ascii_case(name));
            match (places.next(), places.next()) {
                (Some(_), Some(_)) => {
                    let message = format!("The header line has the column {name} twice.");
                    Err(ApiError::unprocessable(message))
                }
                (found, _) => Ok(found.map(|(place, _)| place)),
            }
        };
        let needed = |name: &str| {
            column(name)?.ok_or_else(|| {
                ApiError::unprocessable(format!(
                    "The header line lacks the column {name}. Needed are ID and AUTH_TYPE; \
                     CREDENTIALS, TENANT, TYPE and NAME are read; columns end with a tab, `;` or \
                     `,`."
                ))
            })
        };
        Ok(Columns {
            id: needed("ID")?,
            auth_type: needed("AUTH_TYPE")?,
            credentials: column("CREDENTIALS")?,
            tenant: column("TENANT")?,
            device_type: column("TYPE")?,
            name: column("NAME")?,
        })
    }

    /// What the row says, but for its tenant.
    fn check(&self, field: &impl Fn(Option<usize>) -> String) -> Result<Draft, String> {
        let device =
            DeviceId::parse(&field(Some(self.id))).map_err(|fault| format!("ID: {fault}"))?;
        if !field(Some(self.auth_type)).eq_ignore_ascii_case("CERTIFICATES") {
            return Err("AUTH_TYPE must be CERTIFICATES".to_owned());
        }
        if !field(self.credentials).is_empty() {
            return Err("CREDENTIALS must be empty where AUTH_TYPE is CERTIFICATES".to_owned());
        }
        let text = |column, what: &str| match field(column) {
            text if text.is_empty() => Ok(None),
            text => match check_name(&text) {
                Ok(()) => Ok(Some(text)),
                Err(reason) => Err(format!("{what} {reason}")),
            },
        };
        let device_type = text(self.device_type, "TYPE")?;
        Ok(Draft { device, device_type, name: text(self.name, "NAME")? })
    }
}

/// A good row.
struct Draft {
    device: DeviceId,
    device_type: Option<String>,
    name: Option<String>,
}

impl Draft {
    fn of(self, tenant: TenantId, at: UnixSeconds) -> Registration {
        Registration {
            tenant,
            device: self.device,
            registered_by: RegisteredBy::Bulk,
            at,
            leaf_sha256: None,
            anchor_sha256: None,
            device_type: self.device_type,
            name: self.name,
        }
    }
}

impl Report {
    fn fail(&mut self, line: u64, id: &str, failure_reason: String) {
        self.number_of_failed += 1;
        if self.failed_creation_list.len() < LISTED {
            self.failed_creation_list.push(Failed {
                bulk_new_device_status: "FAILED",
                device_id: super::error::quoted(id),
                failure_reason,
                line: line.to_string(),
            });
        }
    }

    fn done(&mut self, device: DeviceId, outcome: DeviceOutcome) {
        self.number_of_successful += 1;
        match outcome {
            DeviceOutcome::Created => self.number_of_created += 1,
            DeviceOutcome::Existed => {
                if self.credential_updated_list.len() < LISTED {
                    self.credential_updated_list.push(Updated {
                        bulk_new_device_status: "CREDENTIAL_UPDATED",
                        device_id: device.to_string(),
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_are_remembered_once_they_are_found_and_no_other_text_is() {
        let mut known = HashMap::new();
        let acme = TenantId::parse("acme").unwrap();
        for named in ["nobody".to_owned(), "x".repeat(60_000)] {
            assert_eq!(remembered(&mut known, &named, |_| None), None);
        }
        assert!(known.is_empty());
        let found = remembered(&mut known, "acme", |_| Some(acme.clone()));
        assert_eq!(found.as_ref(), Some(&acme));
        assert_eq!(remembered(&mut known, "acme", |_| panic!("it was known")), found);
    }
}
