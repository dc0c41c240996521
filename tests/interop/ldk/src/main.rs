//! An ldk-node for the interop tests, told what to do by JSON lines on stdin.
//!
//! The first line is the configuration: `{"dir", "port", "bitcoind": {"port", "user", "password"}, "lsp"?: {"id",
//! "address"}, "service"?: {…}, "trusted"?: [id]}`; everything it does not name is ldk-node's default. Each further line is a
//! request `{"id", "method", "params"}`, answered by `{"id", "result"}` or `{"id", "error"}`. Events come as `{"event"}`.

use std::io::{BufRead, Write};
use std::str::FromStr;
use std::sync::Arc;

use ldk_node::bitcoin::secp256k1::PublicKey;
use ldk_node::bitcoin::Network;
use ldk_node::lightning::ln::msgs::SocketAddress;
use ldk_node::lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescription, Description};
use ldk_node::lightning_liquidity::lsps1::msgs::LSPS1OrderId;
use ldk_node::liquidity::{LSPS1OrderStatus, LSPS2ServiceConfig};
use ldk_node::{Builder, Node};
use serde_json::{json, Value};

const EXPIRY_S: u32 = 3600;

type Answer = Result<Value, String>;

fn say(line: Value) {
	let mut out = std::io::stdout().lock();
	writeln!(out, "{line}").expect("stdout is open");
	out.flush().expect("stdout is open");
}

fn text<'a>(params: &'a Value, name: &str) -> Result<&'a str, String> {
	params[name].as_str().ok_or(format!("{name} is missing"))
}

fn number(params: &Value, name: &str) -> Result<u64, String> {
	params[name].as_u64().ok_or(format!("{name} is missing"))
}

fn key(params: &Value, name: &str) -> Result<PublicKey, String> {
	PublicKey::from_str(text(params, name)?).map_err(|error| format!("{name}: {error}"))
}

fn address(params: &Value, name: &str) -> Result<SocketAddress, String> {
	SocketAddress::from_str(text(params, name)?).map_err(|error| format!("{name}: {error:?}"))
}

fn failed<E: std::fmt::Debug>(error: E) -> String {
	format!("{error:?}")
}

fn service(row: &Value) -> Result<LSPS2ServiceConfig, String> {
	Ok(LSPS2ServiceConfig {
		require_token: row["require_token"].as_str().map(str::to_owned),
		advertise_service: false,
		channel_opening_fee_ppm: 10_000,
		channel_over_provisioning_ppm: 500_000,
		min_channel_opening_fee_msat: 1_000_000,
		min_channel_lifetime: 1_008,
		max_client_to_self_delay: 2_016,
		min_payment_size_msat: 1_500_000,
		max_payment_size_msat: 4_000_000_000,
		client_trusts_lsp: row["client_trusts_lsp"].as_bool().unwrap_or(false),
	})
}

fn build(row: &Value) -> Result<Node, String> {
	let mut builder = Builder::new();
	let dir = text(row, "dir")?.to_owned();
	let port = number(row, "port")?;
	let bitcoind = &row["bitcoind"];
	builder.set_network(Network::Regtest);
	builder.set_storage_dir_path(dir.clone());
	builder.set_filesystem_logger(Some(format!("{dir}/log")), Some(ldk_node::logger::LogLevel::Trace));
	builder.set_chain_source_bitcoind_rpc(
		"127.0.0.1".to_owned(),
		number(bitcoind, "port")? as u16,
		text(bitcoind, "user")?.to_owned(),
		text(bitcoind, "password")?.to_owned(),
	);
	let own = SocketAddress::from_str(&format!("127.0.0.1:{port}")).map_err(failed)?;
	builder.set_listening_addresses(vec![own]).map_err(failed)?;
	builder.set_node_alias("ldk".to_owned()).map_err(failed)?;
	let lsp = &row["lsp"];
	if lsp.is_object() {
		let token = lsp["token"].as_str().map(str::to_owned);
		builder.set_liquidity_source_lsps2(key(lsp, "id")?, address(lsp, "address")?, token);
	}
	let seller = &row["seller"];
	if seller.is_object() {
		builder.set_liquidity_source_lsps1(key(seller, "id")?, address(seller, "address")?, None);
	}
	if row["service"].is_object() {
		builder.set_liquidity_provider_lsps2(service(&row["service"])?);
	}
	builder.build().map_err(failed)
}

fn channels(node: &Node) -> Value {
	let rows = node.list_channels().into_iter().map(|channel| {
		json!({
			"channel_id": channel.channel_id.to_string(),
			"peer_id": channel.counterparty_node_id.to_string(),
			"funding_txid": channel.funding_txo.map(|outpoint| outpoint.txid.to_string()),
			"value_sat": channel.channel_value_sats,
			"outbound_msat": channel.outbound_capacity_msat,
			"inbound_msat": channel.inbound_capacity_msat,
			"usable": channel.is_usable,
			"confirmations": channel.confirmations,
		})
	});
	Value::Array(rows.collect())
}

fn ordered(order: &LSPS1OrderStatus) -> Answer {
	let bolt11 = order.payment_options.bolt11.as_ref().ok_or("no way to pay by bolt11")?;
	Ok(json!({
		"order_id": order.order_id.0,
		"invoice": bolt11.invoice.to_string(),
		"fee_sat": bolt11.fee_total_sat,
		"payment": format!("{:?}", bolt11.state),
		"outpoint": order.channel_state.as_ref().map(|channel| channel.funding_outpoint.to_string()),
	}))
}

fn answer(node: &Node, method: &str, params: &Value) -> Answer {
	match method {
		"info" => {
			let status = node.status();
			Ok(json!({"id": node.node_id().to_string(), "height": status.current_best_block.height}))
		},
		"address" => Ok(json!(node.onchain_payment().new_address().map_err(failed)?.to_string())),
		"sync" => node.sync_wallets().map(|()| json!(null)).map_err(failed),
		"balances" => {
			let balances = node.list_balances();
			Ok(json!({
				"onchain_sat": balances.spendable_onchain_balance_sats,
				"lightning_sat": balances.total_lightning_balance_sats,
			}))
		},
		"channels" => Ok(channels(node)),
		"connect" => {
			let peer = key(params, "id")?;
			node.connect(peer, address(params, "address")?, true).map(|()| json!(null)).map_err(failed)
		},
		"disconnect" => node.disconnect(key(params, "id")?).map(|()| json!(null)).map_err(failed),
		"open" => {
			let sat = number(params, "amount_sat")?;
			node.open_announced_channel(key(params, "id")?, address(params, "address")?, sat, None, None)
				.map(|_| json!(null))
				.map_err(failed)
		},
		"invoice" | "jit_invoice" => {
			let expiry_s = params["expiry_s"].as_u64().unwrap_or(EXPIRY_S as u64) as u32;
			let description = Bolt11InvoiceDescription::Direct(Description::new("interop".to_owned()).map_err(failed)?);
			let amount_msat = params["amount_msat"].as_u64();
			let bolt11 = node.bolt11_payment();
			let invoice = match (method, amount_msat) {
				("invoice", Some(msat)) => bolt11.receive(msat, &description, expiry_s),
				("invoice", None) => bolt11.receive_variable_amount(&description, expiry_s),
				(_, Some(msat)) => bolt11.receive_via_jit_channel(msat, &description, expiry_s, None),
				(_, None) => bolt11.receive_variable_amount_via_jit_channel(&description, expiry_s, None),
			};
			Ok(json!(invoice.map_err(failed)?.to_string()))
		},
		"order" => {
			let (sat, blocks) = (number(params, "lsp_balance_sat")?, number(params, "blocks")? as u32);
			let announce = params["announce"].as_bool().unwrap_or(false);
			ordered(&node.lsps1_liquidity().request_channel(sat, 0, blocks, announce).map_err(failed)?)
		},
		"order_status" => {
			let id = LSPS1OrderId(text(params, "order_id")?.to_owned());
			ordered(&node.lsps1_liquidity().check_order_status(id).map_err(failed)?)
		},
		"pay" => {
			let invoice = Bolt11Invoice::from_str(text(params, "invoice")?).map_err(failed)?;
			let payment = match params["amount_msat"].as_u64() {
				None => node.bolt11_payment().send(&invoice, None),
				Some(msat) => node.bolt11_payment().send_using_amount(&invoice, msat, None),
			};
			Ok(json!(payment.map_err(failed)?.to_string()))
		},
		"payments" => {
			let rows = node.list_payments().into_iter().map(|payment| {
				json!({
					"id": payment.id.to_string(),
					"amount_msat": payment.amount_msat,
					"status": format!("{:?}", payment.status),
				})
			});
			Ok(Value::Array(rows.collect()))
		},
		_ => Err(format!("there is no method {method}")),
	}
}

fn tell_events(node: Arc<Node>) {
	loop {
		let event = node.wait_next_event();
		say(json!({"event": format!("{event:?}")}));
		if node.event_handled().is_err() {
			return;
		}
	}
}

fn main() -> Result<(), String> {
	let mut lines = std::io::stdin().lock().lines().map_while(Result::ok);
	let first = lines.next().ok_or("the configuration is missing")?;
	let node = Arc::new(build(&serde_json::from_str(&first).map_err(failed)?)?);
	node.start().map_err(failed)?;
	let teller = Arc::clone(&node);
	std::thread::spawn(move || tell_events(teller));
	say(json!({"ready": node.node_id().to_string()}));
	for line in lines {
		let request: Value = serde_json::from_str(&line).map_err(failed)?;
		match answer(&node, request["method"].as_str().unwrap_or(""), &request["params"]) {
			Ok(result) => say(json!({"id": request["id"], "result": result})),
			Err(error) => say(json!({"id": request["id"], "error": error})),
		}
	}
	node.stop().map_err(failed)
}
