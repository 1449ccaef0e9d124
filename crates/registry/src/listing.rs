//! Tags and referrers: lists in pages.

use http::Method;
use http::header::{ACCEPT, LINK};
use serde::Deserialize;
use wharf_content::spec::{Descriptor, INDEX, Index, MAX_DOCUMENT};
use wharf_model::Digest;

use crate::documents;
use crate::error::{Error, Result};
use crate::repository::{Capability, Repository, Target};
use crate::session::{Ask, Place, Session};
use crate::spec::{Tag, next_page, referrers_tag};
use crate::transport::put;

/// What is asked for at once; a registry may send less.
const PAGE: usize = 1000;
const MAX_PAGES: usize = 1000;
const MAX_TAGS: usize = 100_000;
const MAX_REFERRERS: usize = 10_000;

#[derive(Deserialize)]
struct TagPage {
    /// Empty repositories have `null`.
    tags: Option<Vec<String>>,
}

impl Repository {
    /// Every tag, as the registry orders them.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such repository; [`Error::Limit`] when the list does not end.
    pub async fn tags(&self) -> Result<Vec<String>> {
        let (able, mut last) = self.able(Capability::Resolve);
        for session in able {
            match self.tags_at(session).await {
                Ok(tags) => return Ok(tags),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn tags_at(&self, session: &Session) -> Result<Vec<String>> {
        let mut pages = Pages::new(session, &format!("/{}/tags/list?n={PAGE}", self.name));
        let mut tags: Vec<String> = Vec::new();
        while let Some(bytes) = pages.next("the list of tags").await? {
            let malformed = |what: String| Error::Protocol { host: session.host(), what };
            let page: TagPage = serde_json::from_slice(&bytes)
                .map_err(|error| malformed(format!("the list of tags is malformed: {error}")))?;
            for tag in page.tags.unwrap_or_default() {
                tag.parse::<Tag>().map_err(|error| malformed(error.to_string()))?;
                tags.push(tag);
            }
            if tags.len() > MAX_TAGS {
                return Err(Error::Limit { what: "the list of tags".to_owned(), limit: MAX_TAGS as u64 });
            }
        }
        Ok(tags)
    }

    /// What refers to a manifest, all or of one type. Registries without this list are asked for the tag that stands
    /// for it.
    ///
    /// # Errors
    /// Whatever keeps a registry from being asked; that nothing refers to a manifest is none.
    pub async fn referrers(&self, digest: &Digest, artifact_type: Option<&str>) -> Result<Index> {
        let (able, mut last) = self.able(Capability::Pull);
        for session in able {
            match self.referrers_at(session, digest, artifact_type).await {
                Ok(mut index) => {
                    // Filtering is the registry's choice.
                    index.manifests.retain(|referrer| {
                        artifact_type.is_none_or(|wanted| referrer.artifact_type.as_deref() == Some(wanted))
                    });
                    return Ok(index);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn referrers_at(
        &self,
        session: &Session,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Index> {
        let mut path = format!("/{}/referrers/{digest}", self.name);
        if let Some(wanted) = artifact_type {
            path.push_str("?artifactType=");
            path.extend(url::form_urlencoded::byte_serialize(wanted.as_bytes()));
        }
        let mut pages = Pages::new(session, &path);
        let mut referrers: Vec<Descriptor> = Vec::new();
        loop {
            match pages.next("the list of referrers").await {
                Ok(Some(bytes)) => {
                    let page = Index::parse(&bytes, INDEX).map_err(|error| Error::Protocol {
                        host: session.host(),
                        what: format!("the list of referrers is not usable: {error}"),
                    })?;
                    referrers.extend(page.manifests);
                }
                Ok(None) => break,
                Err(Error::NotFound { .. } | Error::NotImplemented(_) | Error::Rejected { .. })
                    if pages.read == 0 =>
                {
                    return self.referrers_by_tag(session, digest).await;
                }
                Err(error) => return Err(error),
            }
            if referrers.len() > MAX_REFERRERS {
                return Err(Error::Limit {
                    what: "the list of referrers".to_owned(),
                    limit: MAX_REFERRERS as u64,
                });
            }
        }
        Ok(Index { manifests: referrers, ..Index::default() })
    }

    async fn referrers_by_tag(&self, session: &Session, digest: &Digest) -> Result<Index> {
        match self.manifest_at(session, &Target::Tag(referrers_tag(digest))).await {
            Ok(document) => documents::index(&document, &session.host()),
            Err(Error::NotFound { .. }) => Ok(Index::default()),
            Err(error) => Err(error),
        }
    }
}

/// The pages of one list.
pub(crate) struct Pages<'a> {
    session: &'a Session,
    next: Option<Ask>,
    read: usize,
}

impl<'a> Pages<'a> {
    pub(crate) fn new(session: &'a Session, path: &str) -> Self {
        let mut ask = session.request(Method::GET, path);
        put(&mut ask.headers, ACCEPT, &format!("application/json, {INDEX}"));
        Self { session, next: Some(ask), read: 0 }
    }

    pub(crate) async fn next(&mut self, what: &str) -> Result<Option<Vec<u8>>> {
        let Some(ask) = self.next.take() else { return Ok(None) };
        let reply = self.session.ask(&ask).await?;
        self.read += 1;
        if let Some(to) = reply.answer.header(LINK).and_then(next_page) {
            let protocol = |what: &str| Error::Protocol { host: self.session.host(), what: what.to_owned() };
            // Lists stay at home: a page elsewhere would be another registry's.
            let place = match (reply.lead(to)?, &ask.place) {
                (Place::Home(target), Place::Home(from)) if target != *from => Place::Home(target),
                (Place::Home(_), _) => return Err(protocol("a list whose next page is the same page")),
                (Place::Foreign { .. }, _) => return Err(protocol("a list that goes on at another host")),
            };
            if self.read == MAX_PAGES {
                return Err(Error::Limit {
                    what: format!("the number of pages of {what}"),
                    limit: MAX_PAGES as u64,
                });
            }
            self.next = Some(Ask { place, ..ask });
        }
        let patience = self.session.core.transport.timeouts.document;
        Ok(Some(reply.answer.body.document(what, MAX_DOCUMENT, patience).await?))
    }
}
