//! Which answers of the network are worth asking again: what `object_store`'s retries are told about an error.
//!
//! Three things are known here that it cannot know. A create-only write may be sent again after its answer was lost,
//! since [`super::Store::create`] settles "exists" by reading and comparing. A certificate that is not trusted stays
//! so, however often one asks. And a store that answers 501 will never learn what it was asked.

use std::error::Error;

use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

/// Connects as reqwest does, and judges errors.
#[derive(Debug, Default)]
pub(super) struct Wire;

impl HttpConnector for Wire {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Judge(ReqwestConnector::default().connect(options)?)))
    }
}

#[derive(Debug)]
struct Judge(HttpClient);

#[async_trait::async_trait]
impl HttpService for Judge {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let creates = request.headers().contains_key("if-none-match");
        let response = self.0.execute(request).await.map_err(|error| judge(error, creates))?;
        if response.status().as_u16() == 501 {
            return Err(HttpError::new(HttpErrorKind::Unknown, std::io::Error::other("501 Not Implemented")));
        }
        Ok(response)
    }
}

fn judge(error: HttpError, creates: bool) -> HttpError {
    if is_untrusted(&error) {
        return HttpError::new(HttpErrorKind::Unknown, error);
    }
    match error.kind() {
        HttpErrorKind::Interrupted | HttpErrorKind::Timeout if creates => HttpError::new(HttpErrorKind::Request, error),
        _ => error,
    }
}

/// Looks for it also within errors of I/O, which are passed over by [`Error::source`].
fn is_untrusted(error: &HttpError) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        let within = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = within.map(|error| error as &(dyn Error + 'static)).or_else(|| error.source());
    }
    false
}
