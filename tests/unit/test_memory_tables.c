/* SPDX-License-Identifier: MIT */
#include "memory_fixture.h"

#include "sqlite/intake.h"
#include "sqlite/ledger.h"
#include "sqlite/tables.h"
#include "state/core.h"

/*
 * The hash tables of the store and the state file when memory runs out. uthash, left to itself, ends the process.
 */

/* SQLite's own memory is another matter: it is not led here. */
static sqlite3 *open_memory(const struct schema *schema)
{
	sqlite3 *db;

	assert_int_equal(sqlite3_open(":memory:", &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, schema->migrations[0], NULL, NULL, NULL), SQLITE_OK);
	return db;
}

static struct store store;

static bool run_ledger(void)
{
	struct queue *queue;
	int r = ledger_queue(&store, "jobs", &queue);

	if (r == 0)
		r = ledger_queue(&store, "other", &queue);
	/* What could not be loaded is not half there either. */
	if (r < 0) {
		memory_is_back();
		assert_int_equal(ledger_queue_by_id(&store, 1, &queue), 0);
		assert_string_equal(queue->name, "jobs");
	}
	ledger_forget(&store);
	return r == 0;
}

static bool run_intake(void)
{
	struct request request = {.kind = REQUEST_CONSUME, .queue = "jobs"};
	int r = intake_consume(&store, &request);

	intake_free(&store);
	store.intakes = NULL;
	return r == 0;
}

static void the_store(void **state)
{
	(void)state;
	store.db = open_memory(&sqlite_schema);
	assert_int_equal(sqlite3_exec(store.db,
	                              "INSERT INTO queues (id, name, max_priority, message_ttl, max_length, overflow,"
	                              " dead_letter) VALUES (1, 'jobs', 0, 0, 0, 0, 0), (2, 'other', 0, 0, 0, 0, 0)",
	                              NULL, NULL, NULL),
	                 SQLITE_OK);
	assert_int_equal(statements_prepare(store.db, store.statements), 0);
	exhaust_memory(run_ledger);
	exhaust_memory(run_intake);
	statements_finalize(store.statements);
	sqlite3_close(store.db);
}

static bool run_statement(void)
{
	struct mqfs_state at = {.path = "a file", .db = store.db};
	bool prepared = state_statement(&at, "SELECT 1");

	if (prepared) {
		struct prepared *only = at.prepared;

		sqlite3_finalize(only->statement);
		HASH_DEL(at.prepared, only);
		__wrap_free(only);
	}
	return prepared;
}

static void the_state(void **state)
{
	(void)state;
	assert_int_equal(sqlite3_open(":memory:", &store.db), SQLITE_OK);
	exhaust_memory(run_statement);
	assert_int_equal(sqlite3_close(store.db), SQLITE_OK); /* BUSY, were a statement left */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_store),
	    cmocka_unit_test(the_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
