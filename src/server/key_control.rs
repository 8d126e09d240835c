//! The edge's signing keys as the admin API sees them: those of files and those that are made
//! here.

use std::sync::Arc;

use async_trait::async_trait;

use super::generations::Generations;
use super::rotation::Rotation;
use crate::admin::{KeyControl, KeyControlFault, KeyInfo};
use crate::registry::Actor;
use crate::token::{Algorithm, KeyState};

pub struct EdgeKeys {
    pub generations: Arc<Generations>,
    pub rotation: Option<Arc<Rotation>>,
}

impl EdgeKeys {
    fn rotation(&self) -> Result<&Arc<Rotation>, KeyControlFault> {
        self.rotation.as_ref().ok_or(KeyControlFault::NotManaged)
    }
}

#[async_trait]
impl KeyControl for EdgeKeys {
    fn keys(&self) -> Vec<KeyInfo> {
        let made = self.rotation.as_ref().map(|rotation| rotation.states()).unwrap_or_default();
        let signs = |algorithm| {
            made.iter().any(|key| key.algorithm == algorithm && key.state == KeyState::Signing)
        };
        let files = self.generations.file_keys();
        let files = files.iter().flat_map(|keys| keys.listed());
        let mut infos: Vec<KeyInfo> = files
            .map(|(kid, algorithm, first)| KeyInfo {
                kid: kid.to_string(),
                algorithm,
                state: match first && !signs(algorithm) {
                    true => KeyState::Signing,
                    false => KeyState::Published,
                },
                published_at: None,
                sign_from: None,
                retires_at: None,
            })
            .collect();
        infos.extend(made.into_iter().map(|key| KeyInfo {
            kid: key.kid.to_string(),
            algorithm: key.algorithm,
            state: key.state,
            published_at: Some(key.published_at),
            sign_from: Some(key.sign_from),
            retires_at: key.retires_at,
        }));
        infos
    }

    async fn rotate(
        &self,
        actor: &Actor,
        algorithm: Option<Algorithm>,
    ) -> Result<(), KeyControlFault> {
        let rotation = self.rotation()?;
        let algorithms = match algorithm {
            None => rotation.algorithms().to_vec(),
            Some(one) if rotation.algorithms().contains(&one) => vec![one],
            Some(_) => return Err(KeyControlFault::AlgorithmNotManaged),
        };
        rotation.rotate(actor, algorithms).await
    }

    async fn delete(&self, actor: &Actor, kid: &str, force: bool) -> Result<(), KeyControlFault> {
        let rotation = self.rotation()?;
        let signs =
            |key: &crate::token::KeyStatus| *key.kid == *kid && key.state == KeyState::Signing;
        if !force && rotation.states().iter().any(signs) {
            return Err(KeyControlFault::Signing);
        }
        rotation.delete(actor, kid).await
    }
}
