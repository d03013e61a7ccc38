"""Small generated tasks that ask for one skill: copying, hops, sums, orders, facts, grammars."""
