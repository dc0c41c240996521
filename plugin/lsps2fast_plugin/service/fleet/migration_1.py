"""The first version of the fleet's schema; it is never edited."""

from __future__ import annotations

from typing import Final

SQL: Final = """
CREATE TABLE about (
  one boolean PRIMARY KEY DEFAULT true CHECK (one), version integer NOT NULL, network text NOT NULL
);
CREATE TABLE node (
  node text PRIMARY KEY, epoch bigint NOT NULL, alias text NOT NULL, program text NOT NULL, policy text NOT NULL,
  seen timestamptz NOT NULL
);
CREATE TABLE hold (
  pot text, node text REFERENCES node ON DELETE CASCADE, held bigint NOT NULL, used bigint NOT NULL,
  PRIMARY KEY (pot, node), CHECK (used >= 0 AND held >= used)
);
CREATE TABLE client (
  peer text, node text REFERENCES node ON DELETE CASCADE, buys integer NOT NULL, unpaid integer NOT NULL,
  probes integer NOT NULL, unsettled integer NOT NULL, under_way integer NOT NULL, unpaid_msat bigint NOT NULL,
  told timestamptz NOT NULL, PRIMARY KEY (peer, node)
);
CREATE INDEX client_told ON client (told);
CREATE INDEX client_of_node ON client (node, told);
CREATE TABLE ledger (
  ledger text PRIMARY KEY, node text NOT NULL, since timestamptz NOT NULL, last bigint NOT NULL DEFAULT 0
);
CREATE TABLE ledger_row (
  ledger text REFERENCES ledger, kind text, name text, row json NOT NULL, PRIMARY KEY (ledger, kind, name)
);

CREATE FUNCTION enter(p_node text, p_epoch bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'transactions must be read committed' USING ERRCODE = 'LF004';
  END IF;
  PERFORM 1 FROM node WHERE node.node = p_node AND epoch = p_epoch FOR SHARE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'another process acts for this node, or it was forgotten' USING ERRCODE = 'LF003';
  END IF;
END $$;

CREATE FUNCTION lock_name(p_name text) RETURNS void LANGUAGE sql AS $$
  SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' ' || p_name, 0))
$$;

-- What a node holds stays its own while it wants it, whatever others hold by then.
CREATE FUNCTION take_hold(p_node text, p_pot text, p_used bigint, p_want bigint, p_most bigint) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE others_held bigint; others_used bigint; mine bigint; granted bigint;
BEGIN
  PERFORM lock_name('pot ' || p_pot);
  SELECT coalesce(sum(held), 0), coalesce(sum(used), 0) INTO others_held, others_used
    FROM hold WHERE pot = p_pot AND node <> p_node;
  SELECT coalesce(max(held), 0) INTO mine FROM hold WHERE pot = p_pot AND node = p_node;
  granted := greatest(p_used, least(p_want, greatest(p_most - others_held, mine)));
  INSERT INTO hold (pot, node, held, used) VALUES (p_pot, p_node, granted, p_used)
    ON CONFLICT (pot, node) DO UPDATE SET held = excluded.held, used = excluded.used;
  RETURN ARRAY[granted, others_held, others_used];
END $$;

-- Holds of several pots; their names come sorted, so that no two nodes wait for each other.
CREATE FUNCTION take_holds(p_node text, p_pots text[], p_used bigint[], p_want bigint[], p_most bigint[]) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE answer json[] := '{}';
BEGIN
  FOR i IN 1 .. coalesce(array_length(p_pots, 1), 0) LOOP
    answer := answer || to_json(take_hold(p_node, p_pots[i], p_used[i], p_want[i], p_most[i]));
  END LOOP;
  RETURN to_json(answer);
END $$;

CREATE FUNCTION others_of(p_node text, p_peer text) RETURNS json LANGUAGE sql AS $$
  SELECT json_build_object(
    'peer', p_peer, 'buys', coalesce(sum(buys), 0), 'unpaid', coalesce(sum(unpaid), 0),
    'probes', coalesce(sum(probes), 0), 'unsettled', coalesce(sum(unsettled), 0),
    'under_way', coalesce(sum(under_way), 0), 'unpaid_msat', coalesce(sum(unpaid_msat), 0)
  ) FROM client WHERE peer = p_peer AND node <> p_node
$$;

CREATE FUNCTION network_and_version() RETURNS json LANGUAGE sql SECURITY DEFINER AS $$
  SELECT json_build_object('network', network, 'version', version) FROM about
$$;

CREATE FUNCTION join_fleet(p_node text, p_alias text, p_program text, p_policy text) RETURNS bigint
LANGUAGE sql SECURITY DEFINER AS $$
  INSERT INTO node (node, epoch, alias, program, policy, seen) VALUES (p_node, 1, p_alias, p_program, p_policy, now())
    ON CONFLICT (node) DO UPDATE SET epoch = node.epoch + 1, alias = excluded.alias, program = excluded.program,
      policy = excluded.policy, seen = now()
    RETURNING epoch
$$;

-- One buy: a place among the client's unused buys, and room in the pots it may use.
CREATE FUNCTION place_buy(
  p_node text, p_epoch bigint, p_peer text, p_buys integer, p_most_buys integer,
  p_pots text[], p_used bigint[], p_want bigint[], p_most bigint[]
) RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE elsewhere integer;
BEGIN
  PERFORM enter(p_node, p_epoch);
  PERFORM lock_name('client ' || p_peer);
  SELECT coalesce(sum(buys), 0) INTO elsewhere FROM client WHERE peer = p_peer AND node <> p_node;
  IF elsewhere + p_buys > p_most_buys THEN
    RETURN json_build_object('room', false, 'others', others_of(p_node, p_peer), 'holds', '[]'::json);
  END IF;
  INSERT INTO client (peer, node, buys, unpaid, probes, unsettled, under_way, unpaid_msat, told)
    VALUES (p_peer, p_node, p_buys, 0, 0, 0, 0, 0, clock_timestamp())
    ON CONFLICT (peer, node) DO UPDATE SET buys = excluded.buys, told = excluded.told;
  RETURN json_build_object(
    'room', true, 'others', others_of(p_node, p_peer), 'holds', take_holds(p_node, p_pots, p_used, p_want, p_most)
  );
END $$;

-- What a node has to tell, and what it hears of the others.
CREATE FUNCTION tell_and_hear(
  p_node text, p_epoch bigint, p_pots text[], p_used bigint[], p_want bigint[], p_most bigint[], p_watch text[],
  p_clients json, p_since timestamptz
) RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE holds json; heard json; told_row record;
BEGIN
  PERFORM enter(p_node, p_epoch);
  FOR told_row IN SELECT * FROM json_to_recordset(p_clients) AS told(
    peer text, buys integer, unpaid integer, probes integer, unsettled integer, under_way integer, unpaid_msat bigint
  ) ORDER BY peer LOOP
    PERFORM lock_name('client ' || told_row.peer);
    INSERT INTO client (peer, node, buys, unpaid, probes, unsettled, under_way, unpaid_msat, told) VALUES (
      told_row.peer, p_node, told_row.buys, told_row.unpaid, told_row.probes, told_row.unsettled,
      told_row.under_way, told_row.unpaid_msat,
      clock_timestamp()
    ) ON CONFLICT (peer, node) DO UPDATE SET buys = excluded.buys, unpaid = excluded.unpaid, probes = excluded.probes,
      unsettled = excluded.unsettled, under_way = excluded.under_way, unpaid_msat = excluded.unpaid_msat,
      told = excluded.told;
  END LOOP;
  holds := take_holds(p_node, p_pots, p_used, p_want, p_most);
  SELECT coalesce(json_agg(others_of(p_node, changed.peer)), '[]'::json) INTO heard FROM (
    SELECT peer, max(told) AS last FROM client WHERE told > p_since AND node <> p_node
      GROUP BY peer ORDER BY last DESC LIMIT 5000
  ) AS changed;
  DELETE FROM client WHERE node = p_node AND peer IN (
    SELECT peer FROM client WHERE node = p_node AND told < clock_timestamp() - interval '1 day' AND buys = 0
      AND unpaid = 0 AND probes = 0 AND unsettled = 0 AND under_way = 0 AND unpaid_msat = 0 ORDER BY told LIMIT 500
  );
  RETURN json_build_object(
    'holds', holds, 'clients', heard, 'others', (
      SELECT coalesce(json_object_agg(pot, sums), '{}'::json) FROM (
        SELECT pot, ARRAY[sum(held), sum(used)] AS sums FROM hold
          WHERE pot = ANY (p_watch) AND node <> p_node GROUP BY pot
      ) AS watched
    ), 'now', clock_timestamp() - interval '10 s',
    'nodes', (SELECT json_agg(json_build_object(
      'node', node.node, 'alias', alias, 'program', program, 'policy', policy,
      'seen_s', extract(epoch FROM clock_timestamp() - seen)::bigint
    ) ORDER BY node.node) FROM node)
  );
END $$;

-- Rows of a node's sales ledger: what comes a second time takes the place of itself. Returns the last change before.
CREATE FUNCTION ship(p_node text, p_epoch bigint, p_ledger text, p_last bigint, p_rows json) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE before bigint;
BEGIN
  PERFORM enter(p_node, p_epoch);
  INSERT INTO ledger (ledger, node, since) VALUES (p_ledger, p_node, clock_timestamp()) ON CONFLICT DO NOTHING;
  SELECT last INTO before FROM ledger WHERE ledger = p_ledger FOR UPDATE;
  INSERT INTO ledger_row (ledger, kind, name, row)
    SELECT p_ledger, kind, name, row FROM json_to_recordset(p_rows) AS told(kind text, name text, row json)
    ON CONFLICT (ledger, kind, name) DO UPDATE SET row = excluded.row;
  UPDATE ledger SET last = p_last WHERE ledger = p_ledger;
  RETURN before;
END $$;

-- That this node is there: apart from what it tells, which may wait for locks.
CREATE FUNCTION seen_now(p_node text, p_policy text) RETURNS void LANGUAGE sql SECURITY DEFINER AS $$
  UPDATE node SET seen = clock_timestamp(), policy = p_policy WHERE node = p_node
$$;
"""
