//! A tenant's anchors, intermediates and CRLs: from files to a trust store.

use std::sync::Arc;

use super::fault::{Fault, Source, printable};
use super::files::{File, in_file};
use super::reuse::Print;
use super::tenant_model::TenantModel;
use super::values::FileRef;
use crate::tenant::FileTrust;
use crate::trust::{
    Anchor, MaterialKind, PemContent, PemFault, StaleCrl, TrustFault, TrustMaterial,
    read_pem_objects,
};

/// Certificates, and CRLs, in all trust files of one tenant.
const MAX_OBJECTS: usize = 10_000;

/// The files, in the order of the model.
pub struct TrustFiles {
    pub trusted: Vec<Arc<File>>,
    pub intermediates: Vec<Arc<File>>,
    pub crls: Vec<Arc<File>>,
}

impl TrustFiles {
    pub fn all(&self) -> impl Iterator<Item = &Arc<File>> {
        self.trusted.iter().chain(&self.intermediates).chain(&self.crls)
    }

    /// Tenants with the same material share one store.
    pub fn print(&self, model: &TenantModel) -> [u8; 32] {
        let mut print = Print::new("trust");
        print.part(&[u8::from(model.accept_stale_crl)]);
        print.part(&(self.trusted.len() as u64).to_be_bytes());
        print.part(&(self.intermediates.len() as u64).to_be_bytes());
        for named in model.trusted.iter().flatten() {
            print.part(&[u8::from(named.auto_registration), u8::from(named.names_tenant)]);
            print.part(named.device_identity.as_str().as_bytes());
        }
        for file in self.all() {
            print.part(&file.sha256);
        }
        print.finish()
    }
}

/// # Errors
/// Every object of every file that cannot be used.
pub fn build_trust(
    source: &Source,
    model: &TenantModel,
    files: &TrustFiles,
) -> Result<Arc<FileTrust>, Vec<Fault>> {
    let stale_crl = if model.accept_stale_crl { StaleCrl::Accept } else { StaleCrl::Refuse };
    let mut material = TrustMaterial { stale_crl, ..TrustMaterial::default() };
    let mut reader = Reader { source, faults: Vec::new() };
    let (mut anchors, mut intermediates, mut crls) =
        (Origins::new(), Origins::new(), Origins::new());
    for (named, file) in model.trusted.iter().flatten().zip(&files.trusted) {
        let ders = reader.objects(&named.file, file, PemContent::Certificates, &mut anchors);
        material.anchors.extend(ders.into_iter().map(|der| Anchor {
            der,
            auto_registration: named.auto_registration,
            identity: named.device_identity.clone(),
            names_tenant: named.names_tenant,
        }));
    }
    for (named, file) in model.intermediates.iter().zip(&files.intermediates) {
        let ders = reader.objects(named, file, PemContent::Certificates, &mut intermediates);
        material.intermediates.extend(ders);
    }
    for (named, file) in model.crls.iter().zip(&files.crls) {
        material.crls.extend(reader.objects(named, file, PemContent::Crls, &mut crls));
    }
    if !reader.faults.is_empty() {
        return Err(reader.faults);
    }
    let no_file = Origins::new();
    let place = |fault: &TrustFault| {
        let (origins, what) = match fault.kind {
            MaterialKind::Anchor => (&anchors, "certificate"),
            MaterialKind::Intermediate => (&intermediates, "certificate"),
            MaterialKind::Crl => (&crls, "CRL"),
            // No file holds one.
            MaterialKind::RevokedSerial => (&no_file, "serial number"),
        };
        let reason = printable(&fault.reason);
        match origins.get(fault.index) {
            Some((file, nth)) => in_file(source, file, &format!("{what} {nth}: {reason}")),
            None => Fault::at(source, model.at, reason),
        }
    };
    FileTrust::build(material).map(Arc::new).map_err(|found| found.iter().map(place).collect())
}

/// Of each object the file that it came from, and its number there, from 1.
type Origins<'m> = Vec<(&'m FileRef, usize)>;

struct Reader<'s> {
    source: &'s Source,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn objects<'m>(
        &mut self,
        named: &'m FileRef,
        file: &File,
        content: PemContent,
        origins: &mut Origins<'m>,
    ) -> Vec<Vec<u8>> {
        let room = MAX_OBJECTS.saturating_sub(origins.len());
        match read_pem_objects(&file.bytes, content, room) {
            Err(PemFault::TooMany(_)) => {
                let message = format!("more than {MAX_OBJECTS} certificates or CRLs of one tenant");
                self.faults.push(in_file(self.source, named, &message));
                Vec::new()
            }
            Ok(objects) => {
                origins.extend((1..=objects.len()).map(|nth| (named, nth)));
                objects
            }
            Err(reason) => {
                self.faults.push(in_file(self.source, named, &reason));
                Vec::new()
            }
        }
    }
}
