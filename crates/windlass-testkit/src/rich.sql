-- A database with much of what is hard to bring back.
create extension pg_trgm; create extension hstore; create extension citext; create extension ltree;
create extension "uuid-ossp"; create extension pgcrypto;
create schema "My Schema 🧭";
create type mood as enum ('sad', 'ok', 'it''s "fine"');
create domain positive as int check (value > 0);
create type pair as (a int, b text);
create table "My Schema 🧭"."Odd ""Table"" name" (id int generated always as identity primary key, "Ünïcode col" text, m mood, p positive, pr pair, h hstore, c citext, l ltree);
insert into "My Schema 🧭"."Odd ""Table"" name" ("Ünïcode col", m, p, pr, h, c, l)
  select E'line\nbreak\ttab \\ ' || n, 'it''s "fine"', n, row(n, 'x'::text)::pair, hstore('k', n::text), 'CiText', 'a.b.c' from generate_series(1, 50) n;
create table orders (id bigserial primary key, note text, price numeric(10, 2), total numeric generated always as (price * 2) stored, at timestamptz default '2026-01-01', doc jsonb, raw bytea, tags text[], span int4range);
insert into orders (note, price, doc, raw, tags, span) select 'order ' || n, n / 7.0, jsonb_build_object('n', n), decode(md5(n::text), 'hex'), array['a', null, n::text], int4range(n, n + 5) from generate_series(1, 3000) n;
create index on orders using gin (note gin_trgm_ops);
create table events (id int, at date not null, primary key (id, at)) partition by range (at);
create table events_2025 partition of events for values from ('2025-01-01') to ('2026-01-01');
create table events_2026 partition of events for values from ('2026-01-01') to ('2027-01-01');
create table events_rest partition of events default;
insert into events select n, date '2025-06-01' + n from generate_series(1, 500) n;
create table parent (id int primary key, name text); create table child (extra text) inherits (parent);
insert into parent values (1, 'p'); insert into child values (2, 'c', 'e');
create table chicken (id int primary key, egg int); create table egg (id int primary key, chicken int references chicken deferrable initially deferred);
alter table chicken add foreign key (egg) references egg deferrable initially deferred;
begin; insert into chicken values (1, 1); insert into egg values (1, 1); commit;
create materialized view summary as select count(*) as n, sum(price) as s from orders; create unique index on summary (n);
create view cheap as select * from orders where price < 10;
create function shout() returns event_trigger language plpgsql as $$ begin raise notice 'ddl'; end $$;
create event trigger loud on ddl_command_end execute function shout(); alter event trigger loud disable;
create function touch() returns trigger language plpgsql as $$ begin new.note := new.note || '!'; return new; end $$;
create trigger touching before update on orders for each row execute function touch();
create rule quiet as on delete to parent do instead nothing;
alter table orders enable row level security; create policy mine on orders using (id % 2 = 0);
create publication pub for table orders;
create sequence counter start 1000 increment 7; select nextval('counter'), nextval('counter');
select lo_from_bytea(424242, 'a large object'); select lo_create(424243); comment on large object 424242 is 'commented';
create table extremes (i bigint, f float8, n numeric, d date, t timestamptz, x text);
insert into extremes values (9223372036854775807, 'NaN', 'NaN', 'infinity', '-infinity', ''), (-9223372036854775808, '-Infinity', 1e300, '4713-01-01 BC', '294276-12-31 23:59:59.999999+00', repeat('x', 1000000)), (null, null, null, null, null, null);
create table empty (id int); create unlogged table fleeting (id int); insert into fleeting values (1);
comment on table orders is 'it''s "commented"'; create statistics st on id, note from orders;
create role windlass_reader; grant select on orders to windlass_reader; grant usage on schema "My Schema 🧭" to windlass_reader;
alter default privileges grant select on tables to windlass_reader; grant select on large object 424242 to windlass_reader;
create collation natural_order (provider = icu, locale = 'en-u-kn-true');
create collation any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
create table names (name text collate natural_order primary key, folded text collate any_case unique);
insert into names values ('a10', 'Straße'), ('a9', 'ÉCOLE'), ('ａ', 'ﬀ');
create extension postgres_fdw; create server elsewhere foreign data wrapper postgres_fdw options (host 'nowhere.invalid', dbname 'x');
create user mapping for public server elsewhere options (user 'nobody'); create foreign table far (id int) server elsewhere;
create type reach as range (subtype = float8, subtype_diff = float8mi);
create domain email as citext check (value ~ '@') not null; create type deep as (inner_pair pair, many pair[], at reach);
create table types (
  a smallint, b int, c real, d money, e char(3), f varchar(5), g bytea, h timestamp, i time, j timetz, k interval, l boolean,
  m point, n line, o lseg, p box, q path, r polygon, s circle, t cidr, u inet, v macaddr, w macaddr8, x bit(3), y bit varying,
  z tsvector, aa tsquery, bb uuid, cc xml, dd json, ee jsonb, ff int[][], gg int4multirange, hh tsrange, ii numrange, jj oid,
  kk regclass, ll pg_lsn, mm "char", nn name, oo reach, pp deep, qq email default 'a@b', rr jsonpath, ss tid, tt xid8);
insert into types values (
  -32768, -2147483648, '-Infinity', '-92233720368547758.08', 'ab', 'ünïcö', '\x00ff5c', '-infinity', '24:00', '23:59:59.999999-15:59', '-178000000 years', true,
  '(1e308,-1e308)', '{1,-1,0}', '[(0,0),(1,1)]', '((1,1),(0,0))', '[(0,0),(1,1)]', '((0,0),(1,1),(1,0))', '<(0,0),1>', '::ffff:1.2.3.0/120', '::1/64',
  '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', B'101', B'', 'fat:4a,5 cat:1', 'fat & (rat | !cat:*)', 'ffffffff-ffff-ffff-ffff-ffffffffffff',
  '<a b="&amp;"/>', '{"a": 1, "a":  2}', '{"n": 1e400, "s": "\u0041\\"}', '[-1:0][2:3]={{1,null},{3,4}}', '{[1,3),(5,)}', '[-infinity,infinity]', '(,)', 4294967295,
  'orders', 'FFFFFFFF/FFFFFFFF', E'\\377', repeat('n', 63), '[-Infinity,NaN)', row(row(1, E'"\\,'), array[row(2, null)::pair, null], 'empty'), 'A@b', '$.a[*] ? (@.b > 1)', '(4294967295,65535)', '18446744073709551615');
insert into types default values;
do $$ begin for n in 1..40 loop execute format('create role "windlass group %s"', n); execute format('grant select, insert on orders, names to "windlass group %s"', n); end loop; end $$;
grant update (note, price) on orders to "windlass group 7" with grant option; grant usage on foreign server elsewhere to windlass_reader;
alter default privileges in schema "My Schema 🧭" grant all on functions to "windlass group 1"; revoke all on function shout() from public;
create procedure settle(inout n int) language sql as $$ select n + 1 $$; create aggregate mul(int) (sfunc = int4mul, stype = int);
create operator === (leftarg = int, rightarg = int, function = int4eq); create cast (pair as text) with inout;
create text search configuration plain (copy = simple); create table "select" ("from" int, " " int, "a.b" int); insert into "select" values (1, 2, 3);
create index "index, with (odd) name" on "select" (("from" + " ")) include ("a.b") where "from" > 0;
alter table orders add constraint no_overlap exclude using gist (span with &&) where (id < 0); alter table orders replica identity full;
create table listed (id int, kind text) partition by list (kind); create table listed_a partition of listed for values in ('a', null) partition by hash (id);
create table listed_a_0 partition of listed_a for values with (modulus 2, remainder 0); create table listed_a_1 partition of listed_a for values with (modulus 2, remainder 1);
insert into listed select n, case when n % 2 = 0 then 'a' end from generate_series(1, 100) n;
