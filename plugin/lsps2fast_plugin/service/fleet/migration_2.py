"""The second version of the fleet's schema: what a node asks costs the same however many nodes there are.

A pot has its sums in a row of its own. A node hears only of clients that it has something with itself, and of nodes
that have changed. What a node has not told since it joined is forgotten once it has told all.
"""

from __future__ import annotations

from typing import Final

SQL: Final = """
CREATE TABLE pot (pot text PRIMARY KEY, held bigint NOT NULL, used bigint NOT NULL) WITH (fillfactor = 50);
INSERT INTO pot (pot, held, used) SELECT pot, sum(held), sum(used) FROM hold GROUP BY pot;
ALTER TABLE hold SET (fillfactor = 70);

ALTER TABLE about ADD COLUMN nodes integer NOT NULL DEFAULT 0;
UPDATE about SET nodes = (SELECT count(*) FROM node);
ALTER TABLE node ADD COLUMN changed timestamptz NOT NULL DEFAULT clock_timestamp();
ALTER TABLE node SET (fillfactor = 50);
CREATE INDEX node_changed ON node (changed);

-- `elsewhere`: when another node last told something of this client; `epoch`: in which this row was told.
ALTER TABLE client ADD COLUMN elsewhere timestamptz, ADD COLUMN epoch bigint NOT NULL DEFAULT 0,
  ADD COLUMN total bigint GENERATED ALWAYS AS (buys + unpaid + probes + unsettled + under_way + unpaid_msat) STORED;
UPDATE client SET elsewhere = told;
DROP INDEX client_told, client_of_node;
CREATE INDEX client_elsewhere ON client (node, elsewhere);
CREATE INDEX client_empty ON client (node, told) WHERE total = 0;
CREATE INDEX client_untold ON client (node, epoch) WHERE total <> 0;

CREATE FUNCTION count_nodes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE about SET nodes = nodes + CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END;
  RETURN NULL;
END $$;
CREATE TRIGGER count_nodes AFTER INSERT OR DELETE ON node FOR EACH ROW EXECUTE FUNCTION count_nodes();

CREATE FUNCTION free_hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE pot SET held = held - OLD.held, used = used - OLD.used WHERE pot = OLD.pot;
  RETURN NULL;
END $$;
CREATE TRIGGER free_hold AFTER DELETE ON hold FOR EACH ROW EXECUTE FUNCTION free_hold();

-- What a node holds stays its own while it wants it, whatever others hold by then.
CREATE OR REPLACE FUNCTION take_hold(p_node text, p_pot text, p_used bigint, p_want bigint, p_most bigint)
RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE sum_held bigint; sum_used bigint; my_held bigint; my_used bigint; granted bigint;
BEGIN
  SELECT held, used INTO sum_held, sum_used FROM pot WHERE pot = p_pot FOR UPDATE;
  IF NOT FOUND THEN
    INSERT INTO pot (pot, held, used) VALUES (p_pot, 0, 0) ON CONFLICT DO NOTHING;
    SELECT held, used INTO sum_held, sum_used FROM pot WHERE pot = p_pot FOR UPDATE;
  END IF;
  SELECT held, used INTO my_held, my_used FROM hold WHERE pot = p_pot AND node = p_node;
  sum_held := sum_held - coalesce(my_held, 0);
  sum_used := sum_used - coalesce(my_used, 0);
  granted := greatest(p_used, least(p_want, greatest(p_most - sum_held, coalesce(my_held, 0))));
  INSERT INTO hold (pot, node, held, used) VALUES (p_pot, p_node, granted, p_used)
    ON CONFLICT (pot, node) DO UPDATE SET held = excluded.held, used = excluded.used;
  UPDATE pot SET held = sum_held + granted, used = sum_used + p_used WHERE pot = p_pot;
  RETURN ARRAY[granted, sum_held, sum_used];
END $$;

CREATE OR REPLACE FUNCTION join_fleet(p_node text, p_alias text, p_program text, p_policy text) RETURNS bigint
LANGUAGE sql SECURITY DEFINER AS $$
  INSERT INTO node (node, epoch, alias, program, policy, seen, changed)
    VALUES (p_node, 1, p_alias, p_program, p_policy, clock_timestamp(), clock_timestamp())
    ON CONFLICT (node) DO UPDATE SET epoch = node.epoch + 1, alias = excluded.alias, program = excluded.program,
      policy = excluded.policy, seen = excluded.seen, changed = excluded.changed
    RETURNING epoch
$$;

-- The other nodes that have something with a client hear of it at their next look.
CREATE FUNCTION tell_others(p_node text, p_peer text) RETURNS void LANGUAGE sql AS $$
  UPDATE client SET elsewhere = clock_timestamp() WHERE peer = p_peer AND node <> p_node
$$;

-- One buy: a place among the client's unused buys, and room in the pots it may use.
CREATE OR REPLACE FUNCTION place_buy(
  p_node text, p_epoch bigint, p_peer text, p_buys integer, p_most_buys integer,
  p_pots text[], p_used bigint[], p_want bigint[], p_most bigint[]
) RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE others json;
BEGIN
  PERFORM enter(p_node, p_epoch);
  PERFORM lock_name('client ' || p_peer);
  others := others_of(p_node, p_peer);
  IF (others ->> 'buys')::bigint + p_buys > p_most_buys THEN
    RETURN json_build_object('room', false, 'others', others, 'holds', '[]'::json);
  END IF;
  INSERT INTO client (peer, node, buys, unpaid, probes, unsettled, under_way, unpaid_msat, told, elsewhere, epoch)
    VALUES (p_peer, p_node, p_buys, 0, 0, 0, 0, 0, clock_timestamp(), clock_timestamp(), p_epoch)
    ON CONFLICT (peer, node) DO UPDATE SET buys = excluded.buys, told = excluded.told, epoch = excluded.epoch;
  PERFORM tell_others(p_node, p_peer);
  RETURN json_build_object(
    'room', true, 'others', others, 'holds', take_holds(p_node, p_pots, p_used, p_want, p_most)
  );
END $$;

DROP FUNCTION tell_and_hear(text, bigint, text[], bigint[], bigint[], bigint[], text[], json, timestamptz);

-- What a node has to tell, and what it hears of the others since it last did.
CREATE FUNCTION tell_and_hear(
  p_node text, p_epoch bigint, p_pots text[], p_used bigint[], p_want bigint[], p_most bigint[], p_watch text[],
  p_clients json, p_since timestamptz, p_nodes_since timestamptz
) RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE holds json; heard json; heard_until timestamptz := clock_timestamp() - interval '10 s'; told_row record;
  how_many bigint; last timestamptz;
BEGIN
  PERFORM enter(p_node, p_epoch);
  FOR told_row IN SELECT * FROM json_to_recordset(p_clients) AS told(
    peer text, buys integer, unpaid integer, probes integer, unsettled integer, under_way integer, unpaid_msat bigint
  ) ORDER BY peer LOOP
    PERFORM lock_name('client ' || told_row.peer);
    INSERT INTO client (peer, node, buys, unpaid, probes, unsettled, under_way, unpaid_msat, told, elsewhere, epoch)
      VALUES (
        told_row.peer, p_node, told_row.buys, told_row.unpaid, told_row.probes, told_row.unsettled,
        told_row.under_way, told_row.unpaid_msat, clock_timestamp(), clock_timestamp(), p_epoch
      ) ON CONFLICT (peer, node) DO UPDATE SET buys = excluded.buys, unpaid = excluded.unpaid,
        probes = excluded.probes, unsettled = excluded.unsettled, under_way = excluded.under_way,
        unpaid_msat = excluded.unpaid_msat, told = excluded.told, epoch = excluded.epoch;
    PERFORM tell_others(p_node, told_row.peer);
  END LOOP;
  holds := take_holds(p_node, p_pots, p_used, p_want, p_most);
  SELECT coalesce(json_agg(others_of(p_node, changed.peer)), '[]'::json), count(*), max(elsewhere)
    INTO heard, how_many, last FROM (
      SELECT peer, elsewhere FROM client WHERE node = p_node AND elsewhere > p_since ORDER BY elsewhere LIMIT 2000
    ) AS changed;
  IF how_many = 2000 THEN
    heard_until := least(heard_until, last);
  END IF;
  DELETE FROM client WHERE (peer, node) IN (
    SELECT peer, node FROM client WHERE node = p_node AND total = 0 AND told < clock_timestamp() - interval '1 day'
      ORDER BY told LIMIT 500 FOR UPDATE SKIP LOCKED
  );
  RETURN json_build_object(
    'holds', holds, 'clients', heard, 'others', (
      SELECT coalesce(json_object_agg(
        pot.pot, ARRAY[pot.held - coalesce(hold.held, 0), pot.used - coalesce(hold.used, 0)]
      ), '{}'::json) FROM pot LEFT JOIN hold ON hold.pot = pot.pot AND hold.node = p_node WHERE pot.pot = ANY (p_watch)
    ), 'heard_until', heard_until, 'now', clock_timestamp() - interval '10 s', 'count', (SELECT nodes FROM about),
    'nodes', nodes_since(p_nodes_since)
  );
END $$;

CREATE FUNCTION nodes_since(p_since timestamptz) RETURNS json LANGUAGE sql AS $$
  SELECT coalesce(json_agg(json_build_object(
    'node', node, 'alias', alias, 'program', program, 'policy', policy,
    'seen_s', extract(epoch FROM clock_timestamp() - seen)::bigint
  ) ORDER BY node), '[]'::json) FROM node WHERE changed > p_since
$$;

CREATE FUNCTION list_nodes() RETURNS json LANGUAGE sql SECURITY DEFINER AS $$
  SELECT nodes_since('-infinity')
$$;

-- The node has told all since it joined: what it had with other clients is over. Returns how many there were, of 500.
CREATE FUNCTION forget_untold(p_node text, p_epoch bigint) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE old record; found_ones bigint := 0;
BEGIN
  PERFORM enter(p_node, p_epoch);
  FOR old IN SELECT peer FROM client WHERE node = p_node AND total <> 0 AND epoch < p_epoch
    ORDER BY peer LIMIT 500 LOOP
    PERFORM lock_name('client ' || old.peer);
    UPDATE client SET buys = 0, unpaid = 0, probes = 0, unsettled = 0, under_way = 0, unpaid_msat = 0,
      told = clock_timestamp(), epoch = p_epoch WHERE peer = old.peer AND node = p_node AND epoch < p_epoch;
    PERFORM tell_others(p_node, old.peer);
    found_ones := found_ones + 1;
  END LOOP;
  RETURN found_ones;
END $$;

-- That this node is there: apart from what it tells, which may wait for locks.
CREATE OR REPLACE FUNCTION seen_now(p_node text, p_policy text) RETURNS void LANGUAGE sql SECURITY DEFINER AS $$
  UPDATE node SET seen = clock_timestamp(), policy = p_policy,
    changed = CASE WHEN policy = p_policy THEN changed ELSE clock_timestamp() END WHERE node = p_node
$$;
"""
