//! A tenant's revoked serial numbers: taken as JSON or CSV, given as a CRL.
//!
//! The platform's list names no issuer: a serial number is revoked under every anchor of the
//! tenant. So the CRL is not one of a CA. It is signed by the key that signs the tenant's
//! tokens, and verifies under the key set (JWKS) of the tenant.

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use rcgen::{
    CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, Issuer,
    KeyIdMethod, PublicKeyData, RevokedCertParams, SerialNumber, SignatureAlgorithm,
};
use serde::Deserialize;
use time::{Duration, OffsetDateTime};

use super::ask::{Ask, Words, no_content};
use super::body::{JSON_BYTES, Object, is_json, json, whole_csv};
use super::csv::{Csv, HeaderFault, Item, Row};
use super::error::{ApiError, quoted};
use super::text::{parse_serial, parse_time};
use crate::clock::UnixSeconds;
use crate::names::TenantId;
use crate::registry::{Change, MAX_REVOCATIONS_A_CALL};
use crate::tenant::TenantEntry;
use crate::token::{Algorithm, X509Signer};

/// How far a date of revocation may lie ahead, in seconds: another zone's day, or a clock that
/// is fast.
const AHEAD: i64 = 24 * 3600;

/// Until the next one is to be fetched. Each answer is made anew, so this says nothing about
/// how old its content is.
const NEXT_UPDATE: Duration = Duration::days(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantQuery {
    tenant: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoQuery {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revocations {
    crls: Vec<Object<Revocation>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Revocation {
    serial_number_in_hex: String,
    revocation_date: Option<String>,
}

/// `GET /tenant/tenants/{tenant}/trusted-certificates/settings/crl`.
pub async fn read(ask: Ask) -> Result<Response, ApiError> {
    let NoQuery {} = ask.query()?;
    let tenant = ask.tenant()?;
    list(&ask, &tenant).await
}

/// `GET /tenant/trusted-certificates/settings/crl`.
pub async fn read_implied(ask: Ask) -> Result<Response, ApiError> {
    let query: TenantQuery = ask.query()?;
    let tenant = ask.implied_tenant(query.tenant.as_deref())?;
    list(&ask, &tenant).await
}

/// `PUT /tenant/tenants/{tenant}/trusted-certificates/settings/crl`.
pub async fn update(ask: Ask, request: Request) -> Result<Response, ApiError> {
    let NoQuery {} = ask.query()?;
    let tenant = ask.tenant()?;
    revoke(&ask, tenant, request).await
}

/// `PUT /tenant/trusted-certificates/settings/crl`.
pub async fn update_implied(ask: Ask, request: Request) -> Result<Response, ApiError> {
    let query: TenantQuery = ask.query()?;
    let tenant = ask.implied_tenant(query.tenant.as_deref())?;
    revoke(&ask, tenant, request).await
}

async fn list(ask: &Ask, tenant: &TenantId) -> Result<Response, ApiError> {
    let TenantEntry::Serviceable(served) = ask.visible(tenant.as_str())? else {
        return Err(ApiError::unavailable(
            "The tenant is not served, because its configuration is faulty; so its signing key is \
             not there.",
        ));
    };
    let revocations = ask.registry().tenant(tenant).revocations.clone();
    let now = ask.now();
    let der = ask
        .admin
        .work(move || {
            let preferred = served.tokens.as_ref().map(|tokens| tokens.algorithm);
            let algorithms = preferred.into_iter().chain([Algorithm::Es256, Algorithm::Rs256]);
            let signer = algorithms
                .filter_map(|algorithm| served.keys.x509_signer(algorithm, now))
                .next()?;
            let rows = revocations.iter().map(|(serial, at)| (serial.as_str(), *at));
            Some(build(served.id.as_str(), rows, signer, now))
        })
        .await?
        .ok_or_else(|| ApiError::not_found("The tenant has no signing key to sign a CRL with."))?
        .ok_or_else(|| ApiError::internal("The CRL could not be made."))?;
    let headers: [(HeaderName, HeaderValue); 2] = [
        (CONTENT_TYPE, HeaderValue::from_static("application/pkix-crl")),
        (CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"tenant.crl\"")),
    ];
    Ok((HeaderMap::from_iter(headers), der).into_response())
}

/// A CRL of version 2 (RFC 5280 section 5); its number is the second in which it was made.
fn build<'r>(
    tenant: &str,
    rows: impl Iterator<Item = (&'r str, UnixSeconds)>,
    signer: X509Signer<'_>,
    now: UnixSeconds,
) -> Option<Vec<u8>> {
    let time = |at: UnixSeconds| OffsetDateTime::from_unix_timestamp(at).ok();
    let row = |(serial, at): (&str, UnixSeconds)| {
        Some(RevokedCertParams {
            serial_number: SerialNumber::from(octets(serial)?),
            revocation_time: time(at)?,
            reason_code: None,
            invalidity_date: None,
        })
    };
    let mut issuer = CertificateParams::default();
    issuer.distinguished_name = DistinguishedName::new();
    issuer.distinguished_name.push(DnType::CommonName, tenant);
    issuer.distinguished_name.push(DnType::OrganizationalUnitName, "portcullis revocations");
    let key_identifier = signer.key_identifier();
    let key = Key(signer);
    let parameters = CertificateRevocationListParams {
        this_update: time(now)?,
        next_update: time(now)?.checked_add(NEXT_UPDATE)?,
        crl_number: SerialNumber::from(u64::try_from(now).ok()?),
        issuing_distribution_point: None,
        revoked_certs: rows.map(row).collect::<Option<_>>()?,
        key_identifier_method: KeyIdMethod::PreSpecified(key_identifier),
    };
    let list = parameters.signed_by(&Issuer::new(issuer, key)).ok()?;
    Some(list.der().to_vec())
}

fn octets(hex: &str) -> Option<Vec<u8>> {
    let even = if hex.len().is_multiple_of(2) { hex.to_owned() } else { format!("0{hex}") };
    let pairs = even.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// The tenant's signing key as rcgen wants one.
struct Key<'k>(X509Signer<'k>);

impl PublicKeyData for Key<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key_bits()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.0.algorithm() {
            Algorithm::Es256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Algorithm::Rs256 => &rcgen::PKCS_RSA_SHA256,
        }
    }
}

impl rcgen::SigningKey for Key<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

async fn revoke(ask: &Ask, tenant: TenantId, request: Request) -> Result<Response, ApiError> {
    let now = ask.now();
    let serials = if is_json(request.headers()) {
        let Revocations { crls } = json(request, JSON_BYTES).await?;
        let read = |(index, Object(row)): (usize, Object<Revocation>)| {
            let row = revocation(&row.serial_number_in_hex, row.revocation_date.as_deref(), now);
            row.map_err(|why| {
                ApiError::unprocessable(format!("Entry {} of crls: {why}.", index + 1))
            })
        };
        crls.into_iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?
    } else {
        from_csv(&whole_csv(request, JSON_BYTES).await?, now)?
    };
    if serials.is_empty() {
        return Err(ApiError::unprocessable("The list holds no serial number."));
    }
    few_enough(serials.len())?;
    let target = format!("{tenant}/{} serial numbers", serials.len());
    let change = Change::AddRevocations { tenant, serials };
    ask.apply("certificate.revoke", &target, change, Words::missing("")).await?;
    Ok(no_content())
}

fn revocation(serial: &str, date: Option<&str>, now: UnixSeconds) -> Result<Serial, String> {
    let serial = parse_serial(serial)
        .ok_or_else(|| "serialNumberInHex is 1 to 20 octets in hex, and not zero".to_owned())?;
    let at = match date.map(str::trim).filter(|date| !date.is_empty()) {
        None => now,
        Some(date) => parse_time(date).ok_or_else(|| {
            let date = quoted(date);
            format!("revocationDate is RFC 3339, such as 2027-01-15T08:00:00Z, and not `{date}`")
        })?,
    };
    if at > now.saturating_add(AHEAD) {
        return Err(
            "revocationDate lies in the future, and a revocation takes effect at once and for \
             good: send it when it is due"
                .to_owned(),
        );
    }
    Ok((serial, at))
}

/// Bytes of a CSV file that are read before it is asked whether to read on.
const STEP: usize = 4 * 1024;

/// Columns `serialNumberInHex` and `revocationDate`. One bad row refuses the file: half a list
/// of revocations is none. No row is kept, and nothing is read far past what refuses the file: a
/// row may take a thousand times the room of its text.
fn from_csv(text: &[u8], now: UnixSeconds) -> Result<Vec<Serial>, ApiError> {
    let fault = |fault: HeaderFault| ApiError::unprocessable(fault.to_string());
    let mut csv = Csv::default();
    let mut list = Serials { now, columns: None, read: Ok(Vec::new()) };
    for step in text.chunks(STEP) {
        csv.feed(step, &mut |item| list.take(item)).map_err(fault)?;
        if list.read.is_err() {
            return list.read;
        }
    }
    csv.finish(&mut |item| list.take(item)).map_err(fault)?;
    list.read
}

/// A serial number, and since when it is revoked.
type Serial = (String, UnixSeconds);

struct Serials {
    now: UnixSeconds,
    /// Where the serial number and the date stand.
    columns: Option<(usize, Option<usize>)>,
    /// With the first fault nothing more is taken.
    read: Result<Vec<Serial>, ApiError>,
}

impl Serials {
    fn take(&mut self, item: Item) {
        let Ok(serials) = &mut self.read else { return };
        let taken = match (item, self.columns) {
            (Item::Header(names), _) => columns(&names).map(|found| self.columns = Some(found)),
            (Item::Row(row), Some(columns)) => {
                serial_of(row, columns, self.now).and_then(|serial| {
                    serials.push(serial);
                    few_enough(serials.len())
                })
            }
            // A file begins with its header.
            (Item::Row(_), None) => Ok(()),
        };
        if let Err(fault) = taken {
            self.read = Err(fault);
        }
    }
}

fn columns(names: &[String]) -> Result<(usize, Option<usize>), ApiError> {
    let column = |name: &str| names.iter().position(|column| column.eq_ignore_ascii_case(name));
    let serial = column("serialNumberInHex").ok_or_else(|| {
        ApiError::unprocessable(
            "The header line lacks the column serialNumberInHex; the other one is revocationDate.",
        )
    })?;
    Ok((serial, column("revocationDate")))
}

fn serial_of(
    row: Row,
    (serial, date): (usize, Option<usize>),
    now: UnixSeconds,
) -> Result<Serial, ApiError> {
    let place = |why: String| ApiError::unprocessable(format!("Line {}: {why}.", row.line));
    let fields = row.fields.as_ref().map_err(|fault| place(fault.to_string()))?;
    let serial = fields.get(serial).map_or("", String::as_str);
    let date = date.and_then(|date| fields.get(date)).map(String::as_str);
    revocation(serial, date, now).map_err(place)
}

fn few_enough(serials: usize) -> Result<(), ApiError> {
    match serials > MAX_REVOCATIONS_A_CALL {
        false => Ok(()),
        true => Err(ApiError::unprocessable(
            "The list has more than 5000 serial numbers: send it in parts, which add up.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_csv_of_serials_is_taken_whole_or_not_at_all() {
        let good = "serialNumberInHex;revocationDate\r\n0a:bc;2027-01-15\r\n\r\nFF;\r\n";
        let now = 1_800_000_000;
        let rows = from_csv(good.as_bytes(), now).unwrap();
        assert_eq!(rows, [("ABC".to_owned(), 1_799_971_200), ("FF".to_owned(), now)]);
        for (bad, why) in [
            ("", "empty"),
            ("serial,date\n1,2027-01-15\n", "serialNumberInHex"),
            ("serialNumberInHex\nxyz\n", "Line 2: serialNumberInHex"),
            ("serialNumberInHex,revocationDate\n1,\n2,soon\n", "Line 3: revocationDate is RFC"),
            ("serialNumberInHex,revocationDate\n1,\n2,1970-01-03\n", "Line 3: revocationDate lies"),
            ("serialNumberInHex\n1\n\"2\n3\n", "Line 3: a quote is not closed"),
            ("\"serialNumberInHex\n1\n", "A quote of the header line"),
            ("serialNumberInHex\n1,2\n", "Line 2: the row has more fields"),
        ] {
            let message = from_csv(bad.as_bytes(), 7).unwrap_err();
            assert!(message.message().contains(why), "{bad:?}: {}", message.message());
        }
    }

    #[test]
    fn a_csv_is_not_read_past_what_refuses_it() {
        // Each time there is another fault further on.
        let rows: String = (1..=5_001).map(|n| format!("{n:x}\n")).collect();
        for (csv, why) in [
            (format!("serialNumberInHex\n{rows}xyz\n"), "more than 5000"),
            (format!("serialNumberInHex\nxyz\n{rows}"), "Line 2"),
            (format!("serial\nxyz\n{rows}"), "lacks the column"),
        ] {
            let message = from_csv(csv.as_bytes(), 7).unwrap_err();
            assert!(message.message().contains(why), "{why}: {}", message.message());
        }
    }
}
