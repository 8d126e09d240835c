-- PostgreSQL orders text as people of a language do, unless it is told otherwise. Device ids
-- stand in the order of their bytes, as SQLite has them: only so are all ids with one prefix
-- next to each other in the index.
ALTER TABLE devices ALTER COLUMN device_id TYPE TEXT COLLATE "C";
ALTER TABLE pins ALTER COLUMN device_id TYPE TEXT COLLATE "C";
