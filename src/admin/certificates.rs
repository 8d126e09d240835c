//! A tenant's trusted certificates: those uploaded here, and those of its configuration file,
//! which are shown and cannot be changed here. Of one that is both, the file's word counts.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boring::sha::sha256;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::ask::{Ask, Words, answer, created, no_content};
use super::body::{JSON_BYTES, MANY_BYTES, Object, at_most, json};
use super::error::ApiError;
use super::text::{self, ReadOnly, check_name, hex, parse_sha256};
use super::trusted;
use crate::clock::UnixSeconds;
use crate::names::TenantId;
use crate::registry::{AnchorRecord, AnchorStatus, Change, MAX_ANCHORS, Possession, TenantState};
use crate::tenant::TenantEntry;

const WORDS: Words = Words::missing(NO_SUCH);
const NO_SUCH: &str = "There is no such trusted certificate.";
/// Of one page; the platform's own bounds.
const PAGE: std::ops::RangeInclusive<usize> = 5..=2000;

/// Of one upload: more than that no tenant has.
const MOST: usize = MAX_ANCHORS.unsigned_abs() as usize;

/// A certificate as the platform shows it, and `deviceIdentity` and `source` of our own.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct View {
    algorithm_name: String,
    auto_registration_enabled: bool,
    cert_in_pem_format: String,
    fingerprint: String,
    issuer: String,
    name: String,
    not_after: String,
    not_before: String,
    /// Decimal.
    serial_number: String,
    status: &'static str,
    subject: String,
    version: u32,
    proof_of_possession_valid: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof_of_possession_unsigned_verification_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof_of_possession_verification_code_usable_until: Option<String>,
    device_identity: String,
    source: &'static str,
}

#[derive(Serialize)]
struct List {
    certificates: Vec<View>,
    statistics: Statistics,
    #[serde(rename = "self")]
    this: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Statistics {
    page_size: usize,
    current_page: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_pages: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_elements: Option<usize>,
}

/// What a client sends: also a whole object that it has read before.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Upload {
    cert_in_pem_format: Option<String>,
    name: Option<String>,
    status: Option<Status>,
    auto_registration_enabled: Option<bool>,
    device_identity: Option<String>,
    #[serde(default, rename = "algorithmName")]
    _algorithm_name: ReadOnly,
    #[serde(default, rename = "fingerprint")]
    _fingerprint: ReadOnly,
    #[serde(default, rename = "issuer")]
    _issuer: ReadOnly,
    #[serde(default, rename = "notAfter")]
    _not_after: ReadOnly,
    #[serde(default, rename = "notBefore")]
    _not_before: ReadOnly,
    #[serde(default, rename = "serialNumber")]
    _serial_number: ReadOnly,
    #[serde(default, rename = "subject")]
    _subject: ReadOnly,
    #[serde(default, rename = "version")]
    _version: ReadOnly,
    #[serde(default, rename = "self")]
    _self: ReadOnly,
    #[serde(default, rename = "source")]
    _source: ReadOnly,
    #[serde(default, rename = "proofOfPossessionValid")]
    _valid: ReadOnly,
    #[serde(default, rename = "proofOfPossessionUnsignedVerificationCode")]
    _code: ReadOnly,
    #[serde(default, rename = "proofOfPossessionVerificationCodeUsableUntil")]
    _usable_until: ReadOnly,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Status {
    Enabled,
    Disabled,
}

impl From<Status> for AnchorStatus {
    fn from(status: Status) -> AnchorStatus {
        match status {
            Status::Enabled => AnchorStatus::Enabled,
            Status::Disabled => AnchorStatus::Disabled,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bulk {
    #[serde(deserialize_with = "at_most::<MOST, _, _>")]
    certificates: Vec<Object<Upload>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListQuery {
    #[serde(default = "least_page")]
    page_size: usize,
    #[serde(default = "first_page")]
    current_page: usize,
    #[serde(default)]
    with_total_pages: bool,
    #[serde(default)]
    with_total_elements: bool,
}

fn least_page() -> usize {
    *PAGE.start()
}

fn first_page() -> usize {
    1
}

/// The platform's switch has no meaning here: what is uploaded is trusted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateQuery {
    #[serde(default, rename = "addToTrustStore")]
    _add_to_trust_store: bool,
}

/// Where a trusted certificate comes from.
enum Known {
    Registry(Arc<AnchorRecord>),
    File(trusted::FileAnchor),
}

/// By fingerprint: `GET …/trusted-certificates`.
pub async fn list(ask: Ask) -> Result<Response, ApiError> {
    let tenant = ask.tenant()?;
    let query: ListQuery = ask.query()?;
    if !PAGE.contains(&query.page_size) {
        return Err(ApiError::bad_request("pageSize is 5 to 2000."));
    }
    if query.current_page == 0 {
        return Err(ApiError::bad_request("currentPage counts from 1."));
    }
    let state = ask.registry().tenant(&tenant);
    let entry = ask.visible(tenant.as_str())?;
    let skipped = (query.current_page - 1).saturating_mul(query.page_size);
    let page = move || {
        let known = all(&state, &entry);
        let page = known.iter().skip(skipped).take(query.page_size);
        page.map(Known::view).collect::<Result<Vec<View>, _>>().map(|page| (known.len(), page))
    };
    let (total, certificates) = ask.admin.work(page).await??;
    let pages = total.div_ceil(query.page_size);
    let link = |page: usize| {
        let totals = if query.with_total_pages { "&withTotalPages=true" } else { "" };
        let elements = if query.with_total_elements { "&withTotalElements=true" } else { "" };
        let (path, size) = (ask.path(), query.page_size);
        format!("{path}?pageSize={size}&currentPage={page}{totals}{elements}")
    };
    let current_page = query.current_page;
    let list = List {
        certificates,
        statistics: Statistics {
            page_size: query.page_size,
            current_page,
            total_pages: query.with_total_pages.then_some(pages),
            total_elements: query.with_total_elements.then_some(total),
        },
        this: link(current_page),
        next: (current_page < pages).then(|| link(current_page + 1)),
        prev: (current_page > 1).then(|| link((current_page - 1).min(pages.max(1)))),
    };
    Ok(answer(StatusCode::OK, &list))
}

/// `GET …/trusted-certificates/{fingerprint}`.
pub async fn read(ask: Ask) -> Result<Response, ApiError> {
    let tenant = ask.tenant()?;
    let known = find(&ask, &tenant)?;
    Ok(answer(StatusCode::OK, &known.view()?))
}

/// `POST …/trusted-certificates`.
pub async fn create(ask: Ask, request: Request) -> Result<Response, ApiError> {
    let tenant = ask.tenant()?;
    let CreateQuery { .. } = ask.query()?;
    let upload: Upload = json(request, JSON_BYTES).await?;
    let now = ask.now();
    let record =
        ask.admin.work(move || upload.into_record(now)).await?.map_err(ApiError::unprocessable)?;
    let view = Known::Registry(Arc::new(record.clone())).view()?;
    add(&ask, tenant, vec![record]).await?;
    let location = format!("{}/{}", ask.path(), view.fingerprint);
    Ok(created(&location, &view))
}

/// All or none: `POST …/trusted-certificates/bulk`.
pub async fn create_many(ask: Ask, request: Request) -> Result<Response, ApiError> {
    let tenant = ask.tenant()?;
    let CreateQuery { .. } = ask.query()?;
    let Bulk { certificates }: Bulk = json(request, MANY_BYTES).await?;
    if certificates.is_empty() {
        return Err(ApiError::unprocessable("The list of certificates is empty."));
    }
    let now = ask.now();
    let read = move || {
        let mut records = Vec::with_capacity(certificates.len());
        let mut views = Vec::with_capacity(certificates.len());
        for (index, Object(upload)) in certificates.into_iter().enumerate() {
            let record = upload.into_record(now).map_err(|reason| {
                let place = index + 1;
                ApiError::unprocessable(format!("Certificate {place} of the list: {reason}"))
            })?;
            views.push(Known::Registry(Arc::new(record.clone())).view()?);
            records.push(record);
        }
        Ok::<_, ApiError>((records, serde_json::json!({ "certificates": views })))
    };
    let (records, body) = ask.admin.work(read).await??;
    add(&ask, tenant, records).await?;
    Ok(answer(StatusCode::CREATED, &body))
}

/// `PUT …/trusted-certificates/{fingerprint}`.
pub async fn update(ask: Ask, request: Request) -> Result<Response, ApiError> {
    let tenant = ask.tenant()?;
    let upload: Upload = json(request, JSON_BYTES).await?;
    let old = uploaded(&ask, &tenant)?;
    upload.check_fields().map_err(ApiError::unprocessable)?;
    if let Some(text) = &upload.cert_in_pem_format
        && one_certificate(text).map_err(ApiError::unprocessable)? != old.der
    {
        return Err(ApiError::unprocessable(
            "The certificate is another one. A trusted certificate is not replaced: add the new \
             one, then delete this.",
        ));
    }
    let change = Change::UpdateAnchor {
        tenant: tenant.clone(),
        sha256: old.sha256,
        name: upload.name,
        status: upload.status.map(AnchorStatus::from),
        auto_registration: upload.auto_registration_enabled,
        identity: upload.device_identity,
    };
    ask.apply("certificate.update", &target(&tenant, &old.sha256), change, WORDS).await?;
    Ok(answer(StatusCode::OK, &find(&ask, &tenant)?.view()?))
}

/// `DELETE …/trusted-certificates/{fingerprint}`.
pub async fn delete(ask: Ask) -> Result<Response, ApiError> {
    let tenant = ask.tenant()?;
    let known = find(&ask, &tenant)?;
    let sha256 = known.sha256();
    let of_file = matches!(known, Known::File(_));
    if of_file && upload_of(&ask.registry().tenant(&tenant), &sha256).is_none() {
        return Err(stands_in_file(&tenant));
    }
    let change = Change::DeleteAnchor { tenant: tenant.clone(), sha256 };
    ask.apply("certificate.delete", &target(&tenant, &sha256), change, WORDS).await?;
    match of_file {
        false => Ok(no_content()),
        // No answer of success: what was asked for, that it be trusted no longer, is not so.
        true => Err(stands_in_file(&tenant).after(
            "Until then it stays trusted; its upload, which had no effect, is deleted.".to_owned(),
        )),
    }
}

fn stands_in_file(tenant: &TenantId) -> ApiError {
    ApiError::conflict(format!(
        "This certificate stands in the configuration file, under trusted_certificates of the \
         tenant {tenant}. Change it there and reload.",
    ))
}

/// The uploaded certificate that the path names.
///
/// # Errors
/// 404; 409 for one of the configuration file, which names it.
pub fn uploaded(ask: &Ask, tenant: &TenantId) -> Result<Arc<AnchorRecord>, ApiError> {
    match find(ask, tenant)? {
        Known::Registry(record) => Ok(record),
        Known::File(_) => Err(stands_in_file(tenant)),
    }
}

/// The answer that shows an uploaded certificate as it is now.
///
/// # Errors
/// 404 where it has gone.
pub fn shown(ask: &Ask, tenant: &TenantId) -> Result<Response, ApiError> {
    Ok(answer(StatusCode::OK, &find(ask, tenant)?.view()?))
}

/// How the log names a certificate of a tenant.
pub fn target(tenant: &TenantId, sha256: &[u8; 32]) -> String {
    format!("{tenant}/{}", hex(sha256))
}

async fn add(ask: &Ask, tenant: TenantId, records: Vec<AnchorRecord>) -> Result<(), ApiError> {
    let entry = ask.visible(tenant.as_str())?;
    let find = move || {
        let of_file: HashSet<[u8; 32]> =
            trusted::file_anchors(&entry).map(|anchor| anchor.sha256()).collect();
        (records.iter().position(|record| of_file.contains(&record.sha256)), records)
    };
    let (taken, records) = ask.admin.work(find).await?;
    let single = records.len() == 1;
    if let Some(index) = taken {
        let which = match single {
            true => "The certificate".to_owned(),
            false => format!("Certificate {} of the list", index + 1),
        };
        return Err(ApiError::conflict(format!(
            "{which} stands in the configuration file already."
        )));
    }
    let target = match records.as_slice() {
        [one] => target(&tenant, &one.sha256),
        many => format!("{tenant}/{} certificates", many.len()),
    };
    let words = Words {
        missing: NO_SUCH,
        taken: match single {
            true => |_| ApiError::conflict("The certificate is there already."),
            false => |index| {
                ApiError::conflict(format!(
                    "Certificate {} of the list is there already, or stands twice in it.",
                    index + 1
                ))
            },
        },
    };
    let change = Change::AddAnchors { tenant, anchors: records };
    ask.apply("certificate.create", &target, change, words).await?;
    Ok(())
}

fn find(ask: &Ask, tenant: &TenantId) -> Result<Known, ApiError> {
    let missing = || ApiError::not_found(NO_SUCH);
    let sha256 = parse_sha256(ask.param("fingerprint")).ok_or_else(missing)?;
    let state = ask.registry().tenant(tenant);
    let upload = upload_of(&state, &sha256);
    let entry = ask.visible(tenant.as_str())?;
    // The file first: what stands there is trusted, whatever became of an upload.
    let of_file = match upload {
        Some(record) => trusted::file_anchor(&entry, &record.der, sha256),
        None => trusted::file_anchors(&entry).find(|anchor| anchor.sha256() == sha256),
    };
    let known = of_file.map(Known::File).or_else(|| upload.cloned().map(Known::Registry));
    known.ok_or_else(missing)
}

fn upload_of<'s>(state: &'s TenantState, sha256: &[u8; 32]) -> Option<&'s Arc<AnchorRecord>> {
    state.anchors.iter().find(|record| record.sha256 == *sha256)
}

/// By fingerprint, so that pages hold still while others are added. Hashes each of the file.
fn all(state: &TenantState, entry: &TenantEntry) -> Vec<Known> {
    let of_file = trusted::file_anchors(entry).map(Known::File);
    let uploaded = state.anchors.iter().cloned().map(Known::Registry);
    // Of two equal ones the first stays, which is the file's.
    let mut known: Vec<Known> = of_file.chain(uploaded).collect();
    known.sort_by_cached_key(Known::sha256);
    known.dedup_by_key(|known| known.sha256());
    known
}

impl Known {
    fn sha256(&self) -> [u8; 32] {
        match self {
            Known::Registry(record) => record.sha256,
            Known::File(anchor) => anchor.sha256(),
        }
    }

    fn view(&self) -> Result<View, ApiError> {
        let der = match self {
            Known::Registry(record) => &record.der,
            Known::File(anchor) => anchor.der(),
        };
        // What is trusted was parsed before it was.
        let facts = trusted::facts(der)
            .map_err(|_| ApiError::internal("A stored certificate does not parse."))?;
        let common = View {
            algorithm_name: facts.algorithm_name,
            auto_registration_enabled: false,
            cert_in_pem_format: STANDARD.encode(der),
            fingerprint: hex(&self.sha256()),
            issuer: facts.issuer,
            name: facts.common_name.unwrap_or_else(|| facts.subject.clone()),
            not_after: text::time(facts.not_after),
            not_before: text::time(facts.not_before),
            serial_number: text::decimal(&facts.serial_hex),
            status: "ENABLED",
            subject: facts.subject,
            version: facts.version,
            proof_of_possession_valid: false,
            proof_of_possession_unsigned_verification_code: None,
            proof_of_possession_verification_code_usable_until: None,
            device_identity: String::new(),
            source: "file",
        };
        Ok(match self {
            Known::File(anchor) => View {
                auto_registration_enabled: anchor.auto_registration(),
                device_identity: anchor.identity().to_owned(),
                ..common
            },
            Known::Registry(record) => View {
                auto_registration_enabled: record.auto_registration,
                name: record.name.clone(),
                status: match record.status {
                    AnchorStatus::Enabled => "ENABLED",
                    AnchorStatus::Disabled => "DISABLED",
                },
                proof_of_possession_valid: record.possession.confirmed,
                proof_of_possession_unsigned_verification_code: record.possession.code.clone(),
                proof_of_possession_verification_code_usable_until: record
                    .possession
                    .code
                    .as_ref()
                    .map(|_| text::time(record.possession.usable_until)),
                device_identity: record.identity.clone(),
                source: "registry",
                ..common
            },
        })
    }
}

impl Upload {
    /// A new anchor. The reason of a refusal holds nothing of the certificate.
    fn into_record(self, now: UnixSeconds) -> Result<AnchorRecord, String> {
        self.check_fields()?;
        let Some(text) = &self.cert_in_pem_format else {
            return Err("certInPemFormat is missing.".to_owned());
        };
        let der = one_certificate(text)?;
        let facts = trusted::facts(&der).map_err(|reason| format!("The certificate: {reason}."))?;
        trusted::check_anchor(&der).map_err(|reason| format!("The certificate: {reason}."))?;
        if facts.not_after < now {
            let ended = text::time(facts.not_after);
            return Err(format!("The certificate: its validity ended on {ended}."));
        }
        let name = self.name.unwrap_or_else(|| facts.common_name.unwrap_or(facts.subject));
        check_name(&name).map_err(|reason| format!("name {reason}."))?;
        Ok(AnchorRecord {
            sha256: sha256(&der),
            der,
            name,
            status: self.status.unwrap_or(Status::Enabled).into(),
            auto_registration: self.auto_registration_enabled.unwrap_or(false),
            identity: self.device_identity.unwrap_or_else(|| "cn".to_owned()),
            added_at: now,
            changed_at: now,
            possession: Possession::default(),
        })
    }

    fn check_fields(&self) -> Result<(), String> {
        if let Some(name) = &self.name {
            check_name(name).map_err(|reason| format!("name {reason}."))?;
        }
        if let Some(rule) = &self.device_identity {
            trusted::check_identity(rule).map_err(|reason| format!("deviceIdentity: {reason}."))?;
        }
        Ok(())
    }
}

/// The one certificate of a text: PEM, or base64 of the DER alone, as the platform has it.
fn one_certificate(text: &str) -> Result<Vec<u8>, String> {
    if text.contains("-----") {
        let mut ders = trusted::certificates(text, 1)
            .map_err(|reason| format!("certInPemFormat {reason}."))?;
        return ders.pop().ok_or_else(|| "certInPemFormat holds no certificate.".to_owned());
    }
    let base64: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let der = STANDARD.decode(base64).ok().filter(|der| !der.is_empty());
    der.ok_or_else(|| "certInPemFormat is neither PEM nor base64 of the DER.".to_owned())
}

/// A certificate's DER out of any form that the API takes.
///
/// # Errors
/// What is wrong with the text.
pub fn certificate_of(text: &str) -> Result<Vec<u8>, String> {
    let der = one_certificate(text)?;
    trusted::facts(&der).map_err(|reason| format!("The certificate: {reason}."))?;
    Ok(der)
}
