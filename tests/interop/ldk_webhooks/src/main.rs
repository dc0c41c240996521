//! LDK's own readers of LSPS5, for the interop tests: a JSON request `{"method", …}` a line, answered by `{"ok"}` or
//! `{"error"}`. Nothing here knows our program; each method hands what it is given to one type of lightning-liquidity.

use std::io::{BufRead, Write};
use std::str::FromStr;

use bitcoin::secp256k1::PublicKey;
use lightning_liquidity::lsps0::ser::{LSPSDateTime, LSPSResponseError};
use lightning_liquidity::lsps5::msgs::{
	ListWebhooksResponse, RemoveWebhookResponse, SetWebhookRequest, SetWebhookResponse, WebhookNotification,
};
use lightning_liquidity::lsps5::validator::LSPS5Validator;
use serde_json::{json, Value};

type Answer = Result<Value, String>;

fn failed<E: std::fmt::Debug>(error: E) -> String {
	format!("{error:?}")
}

fn text<'a>(request: &'a Value, name: &str) -> Result<&'a str, String> {
	request[name].as_str().ok_or(format!("{name} is missing"))
}

fn validate(validator: &LSPS5Validator, request: &Value) -> Answer {
	let lsp = PublicKey::from_str(text(request, "lsp_id")?).map_err(failed)?;
	let timestamp = LSPSDateTime::from_str(text(request, "timestamp")?).map_err(|_| "no timestamp".to_owned())?;
	let notification: WebhookNotification = serde_json::from_str(text(request, "body")?).map_err(failed)?;
	let seen = validator.validate(lsp, &timestamp, text(request, "signature")?, &notification);
	seen.map(|found| json!(format!("{:?}", found.method))).map_err(failed)
}

fn answer(validator: &LSPS5Validator, request: &Value) -> Answer {
	let body = request["body"].clone();
	match text(request, "method")? {
		"validate" => validate(validator, request),
		"set_request" => {
			let ask = serde_json::from_value::<SetWebhookRequest>(body).map_err(failed)?;
			serde_json::to_value(ask).map_err(failed)
		},
		"set_result" => serde_json::from_value::<SetWebhookResponse>(body).map(|found| json!(format!("{found:?}"))).map_err(failed),
		"list_result" => serde_json::from_value::<ListWebhooksResponse>(body).map(|found| json!(format!("{found:?}"))).map_err(failed),
		"remove_result" => serde_json::from_value::<RemoveWebhookResponse>(body).map(|found| json!(format!("{found:?}"))).map_err(failed),
		"error" => serde_json::from_value::<LSPSResponseError>(body).map(|found| json!(format!("{found:?}"))).map_err(failed),
		other => Err(format!("there is no method {other}")),
	}
}

fn main() {
	let validator = LSPS5Validator::new();
	for line in std::io::stdin().lock().lines().map_while(Result::ok) {
		let said = match serde_json::from_str(&line).map_err(failed).and_then(|request| answer(&validator, &request)) {
			Ok(ok) => json!({"ok": ok}),
			Err(error) => json!({"error": error}),
		};
		let mut out = std::io::stdout().lock();
		writeln!(out, "{said}").expect("stdout is open");
		out.flush().expect("stdout is open");
	}
}
