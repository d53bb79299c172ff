//! Reading the books, piece by piece.

use crate::keys;
use crate::snapshot::DecodeError;
use crate::store::{KeyValue, Store, StoreError};

use super::{Books, Claim, Unreadable};

impl Books {
    /// Everything the store holds of addresses: claims first, records after them.
    pub async fn read(store: &dyn Store) -> Result<Books, StoreError> {
        let mut books = Books::default();
        for prefix in [keys::ADDRESS_CLAIMS, keys::MAC_CLAIMS, keys::NAME_CLAIMS] {
            let mut pages = store.pages(prefix).await?.pages;
            while let Some(page) = pages.recv().await {
                page?.into_iter().for_each(|entry| books.put_claim(entry));
            }
        }
        let mut listing = store.pages(keys::INTENT).await?;
        while let Some(page) = listing.pages.recv().await {
            page?.iter().for_each(|entry| books.put_record(entry));
        }
        books.snapshot.revision = listing.revision;
        Ok(books)
    }

    /// Takes up a claim.
    pub fn put_claim(&mut self, entry: KeyValue) {
        let owner = std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse().ok());
        self.claims.push(Claim { path: entry.key, owner, revision: entry.revision });
    }

    /// Takes up a record.
    pub fn put_record(&mut self, entry: &KeyValue) {
        let Err(error) = self.snapshot.apply(&entry.key, Some((&entry.value, entry.revision))) else {
            return;
        };
        let reason = match error {
            DecodeError::Key(_) => "its key is that of no record".to_owned(),
            DecodeError::Value { source, .. } => format!("it is not the JSON of such a record: {source}"),
            DecodeError::Identity(_) => "it says that it is another record than its key does".to_owned(),
        };
        self.unreadable.push(Unreadable { path: entry.key.clone(), revision: entry.revision, reason });
    }
}
