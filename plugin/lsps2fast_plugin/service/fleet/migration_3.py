"""The third version of the fleet's schema: a ledger's rows are taken only where they follow on what is there.

So the books notice what they have lost as often as they are asked. And the uses of a token stay counted when the node
that sold them is forgotten.
"""

from __future__ import annotations

from typing import Final

SQL: Final = """
DROP FUNCTION ship(text, bigint, text, bigint, json);

-- Rows of a node's sales ledger, changes after `p_shipped` up to `p_last`: what comes a second time takes the place of
-- itself. Returns the last change before; where that is less than `p_shipped`, nothing is taken.
CREATE FUNCTION ship(p_node text, p_epoch bigint, p_ledger text, p_shipped bigint, p_last bigint, p_rows json)
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE before bigint;
BEGIN
  PERFORM enter(p_node, p_epoch);
  INSERT INTO ledger (ledger, node, since) VALUES (p_ledger, p_node, clock_timestamp()) ON CONFLICT DO NOTHING;
  SELECT last INTO before FROM ledger WHERE ledger = p_ledger FOR UPDATE;
  IF before >= p_shipped THEN
    INSERT INTO ledger_row (ledger, kind, name, row)
      SELECT p_ledger, kind, name, row FROM json_to_recordset(p_rows) AS told(kind text, name text, row json)
      ON CONFLICT (ledger, kind, name) DO UPDATE SET row = excluded.row;
    UPDATE ledger SET last = p_last WHERE ledger = p_ledger;
  END IF;
  RETURN before;
END $$;

-- What a node held is free when it is forgotten, but the uses of tokens are sold: their rows stay, and are its own
-- again should it ever join.
ALTER TABLE hold DROP CONSTRAINT hold_node_fkey;
CREATE FUNCTION forget_holds() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE pot SET held = pot.held - hold.held + hold.used FROM hold
    WHERE hold.pot = pot.pot AND hold.node = OLD.node AND hold.pot LIKE 'token:%';
  UPDATE hold SET held = used WHERE node = OLD.node AND pot LIKE 'token:%';
  DELETE FROM hold WHERE node = OLD.node AND (pot NOT LIKE 'token:%' OR used = 0);
  RETURN NULL;
END $$;
CREATE TRIGGER forget_holds AFTER DELETE ON node FOR EACH ROW EXECUTE FUNCTION forget_holds();
"""
