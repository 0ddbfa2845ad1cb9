/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <mqfs/delivery.h>
#include <mqfs/failure.h>
#include <mqfs/meta.h>
#include <mqfs/property.h>

#include <cjson/cJSON.h>
#include <errno.h>

#include "sqlite/intake.h"
#include "sqlite/ledger.h"
#include "sqlite/tables.h"
#include "state/core.h"

/*
 * What happens when memory runs out: each case is run again and again while one allocation after the
 * other fails, until none does. A failure has to be reported, and nothing may be leaked or freed twice. The
 * linker leads the library's calls here (--wrap).
 */

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
char *__real_strdup(const char *text);
void __real_free(void *memory);

static int countdown = -1; /* which allocation from now fails; -1: none */
static bool failed;
static long alive;

static bool may_allocate(void)
{
	if (countdown >= 0 && countdown-- == 0) {
		failed = true;
		errno = ENOMEM;
		return false;
	}
	return true;
}

static void *born(void *memory)
{
	alive += memory != NULL;
	return memory;
}

void *__wrap_malloc(size_t bytes)
{
	return may_allocate() ? born(__real_malloc(bytes)) : NULL;
}

void *__wrap_calloc(size_t count, size_t bytes)
{
	return may_allocate() ? born(__real_calloc(count, bytes)) : NULL;
}

void *__wrap_realloc(void *old, size_t bytes)
{
	void *memory = may_allocate() ? __real_realloc(old, bytes) : NULL;

	return old ? memory : born(memory);
}

char *__wrap_strdup(const char *text)
{
	return may_allocate() ? born(__real_strdup(text)) : NULL;
}

void __wrap_free(void *memory)
{
	alive -= memory != NULL;
	__real_free(memory);
}

static struct mqfs_message *loaded;

static int setup(void **state)
{
	struct mqfs_table inner = {0};
	struct mqfs_array cc = {0};

	(void)state;
	cJSON_InitHooks(&(cJSON_Hooks){.malloc_fn = __wrap_malloc, .free_fn = __wrap_free});
	loaded = unit_message("body");
	mqfs_message_set_string(&loaded->expiration, "1000");
	mqfs_message_set_string(&loaded->user_id, "guest");
	mqfs_message_set_string(&loaded->type, "t");
	unit_push(&cc, unit_text("copy"));
	unit_push(&cc, unit_text("to"));
	unit_add(&inner, "reason", unit_text("rejected"));
	unit_add(&inner, "list", (struct mqfs_value){.kind = 'A', .array = cc});
	cc = (struct mqfs_array){0};
	unit_push(&cc, (struct mqfs_value){.kind = 'F', .table = inner});
	unit_add(&loaded->headers, "x-death", (struct mqfs_value){.kind = 'A', .array = cc});
	cc = (struct mqfs_array){0};
	unit_push(&cc, unit_text("copy"));
	unit_add(&loaded->headers, "CC", (struct mqfs_value){.kind = 'A', .array = cc});
	unit_add(&loaded->headers, "huge", (struct mqfs_value){.kind = 'l', .integer = INT64_MAX});
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	mqfs_message_free(loaded);
	cJSON_InitHooks(NULL);
	return 0;
}

/* Runs a case that tells whether it succeeded, and cleans up after itself either way. */
static void exhaust(bool (*run)(void))
{
	int n = 0;

	for (;; n++) {
		long before = alive;
		bool succeeded;

		failed = false;
		countdown = n;
		succeeded = run();
		countdown = -1;
		assert_int_equal(alive, before);
		assert_int_equal(succeeded, !failed);
		if (succeeded)
			break;
	}
	assert_true(n > 0);
}

static bool drop(struct mqfs_message *message)
{
	mqfs_message_free(message);
	return message != NULL;
}

static bool run_copy(void)
{
	return drop(mqfs_message_copy(loaded));
}

static const struct mqfs_failed_attempt attempt = {
    .attempts = 1, .now_us = 1, .next_at_us = 2, .error = "e", .dead_reason = "r", .host = "h", .queue = "q"};

static bool run_retry(void)
{
	return drop(mqfs_copy_for_retry(loaded, &attempt));
}

static bool run_dead(void)
{
	return drop(mqfs_copy_for_dead(loaded, &attempt));
}

static bool run_release(void)
{
	return drop(mqfs_copy_for_release(loaded, 0));
}

static bool run_grant(void)
{
	return drop(mqfs_copy_for_grant(loaded, 1));
}

static bool run_afresh(void)
{
	return drop(mqfs_copy_afresh(loaded, 1, 1));
}

static void copies(void **state)
{
	(void)state;
	exhaust(run_copy);
	exhaust(run_retry);
	exhaust(run_dead);
	exhaust(run_release);
	exhaust(run_grant);
	exhaust(run_afresh);
}

static bool run_stamp(void)
{
	struct mqfs_message *message = mqfs_message_new();
	bool stamped = message && mqfs_message_stamp(message, "a.txt", 1) == 0;

	mqfs_message_free(message);
	return stamped;
}

static bool run_body(void)
{
	struct mqfs_body *body = mqfs_body_new();
	bool written = body && mqfs_body_write(body, 0, "12345", 5) == 0 && mqfs_body_truncate(body, 10000) == 0;

	mqfs_body_unref(body);
	return written;
}

static void new_messages(void **state)
{
	(void)state;
	exhaust(run_stamp);
	exhaust(run_body);
}

/* A set that fails leaves what was there. */
static bool run_set(void)
{
	struct mqfs_message *message = mqfs_message_copy(loaded);
	bool set;

	if (!message)
		return false;
	set = mqfs_property_set(message, "type", "new", 3) == 0;
	assert_string_equal(message->type, set ? "new" : "t");
	if (set) {
		set = mqfs_property_set(message, "header.huge", "small", 5) == 0;
		assert_int_equal(mqfs_headers_get(&message->headers, "huge")->kind, set ? 'S' : 'l');
	}
	if (set) {
		set = mqfs_property_set(message, "header.new", "value", 5) == 0;
		assert_int_equal(mqfs_headers_get(&message->headers, "new") != NULL, set);
	}
	mqfs_message_free(message);
	return set;
}

static bool run_get(void)
{
	static const char *const names[] = {"type", "header.CC", "header.huge", "header.x-death"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char *text;
		size_t bytes;

		if (mqfs_property_get(loaded, names[i], &text, &bytes) < 0)
			return false;
		__wrap_free(text);
	}
	return true;
}

static void properties(void **state)
{
	(void)state;
	exhaust(run_set);
	exhaust(run_get);
}

static bool run_meta(void)
{
	struct mqfs_settings settings = {0};
	struct mqfs_message *message = mqfs_message_copy(loaded);
	struct mqfs_delivery *delivery = message ? mqfs_delivery_new(message, "jobs") : NULL;
	char *text;

	if (!delivery)
		return drop(message) && false; /* it stays the caller's */
	text = mqfs_meta_json(delivery, &settings);
	__wrap_free(text);
	mqfs_delivery_unref(delivery);
	return text != NULL;
}

static void meta(void **state)
{
	(void)state;
	exhaust(run_meta);
}

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
		countdown = -1;
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
	exhaust(run_ledger);
	exhaust(run_intake);
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
	exhaust(run_statement);
	assert_int_equal(sqlite3_close(store.db), SQLITE_OK); /* BUSY, were a statement left */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(copies, setup, teardown),
	    cmocka_unit_test_setup_teardown(new_messages, setup, teardown),
	    cmocka_unit_test_setup_teardown(properties, setup, teardown),
	    cmocka_unit_test_setup_teardown(meta, setup, teardown),
	    cmocka_unit_test(the_store),
	    cmocka_unit_test(the_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
