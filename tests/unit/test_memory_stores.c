/* SPDX-License-Identifier: MIT */
#include "memory_fixture.h"

#include "outbox_fixture.h"

#include <mqfs/failure.h>
#include <mqfs/log.h>
#include <mqfs/records.h>

/*
 * The embedded store and the state file when memory runs out, on whichever thread: each case is run while one
 * allocation after the other fails, until none does. Every request is answered once, by 0 or -ENOMEM, and what it was
 * about is where that says.
 */

static struct mqfs_backend *backend;
static long before;

/* Both are open all the while; what is leaked shows in the end. */
static int begin(void **state)
{
	int r = fixture_setup(state);

	before = alive;
	mqfs_log_set_level(MQFS_LOG_ERROR - 1);
	if (r < 0)
		return r;
	backend = open_store(60000);
	return 0;
}

static int end(void **state)
{
	mqfs_backend_close(backend);
	assert_int_equal(alive, before);
	return fixture_teardown(state);
}

static bool is_answer(int r)
{
	return r == 0 || r == -ENOMEM;
}

static void exhaust(void (*run)(int n))
{
	bool ran_out = true;

	for (int n = 0; ran_out; n++) {
		run(n);
		ran_out = failed;
	}
}

/* ---- the embedded store ---- */

static int64_t ready;

static void run_publish(int n)
{
	struct mqfs_message *message = identified("body");
	int r;

	memory_fails_after(n);
	r = publish(backend, "jobs", message);
	memory_is_back();
	assert_true(is_answer(r));
	ready += r == 0;
	assert_int_equal(depths(backend, "jobs").ready, ready);
}

static void run_declare(int n)
{
	char name[16];
	int r;

	snprintf(name, sizeof(name), "queue%d", n);
	memory_fails_after(n);
	r = declare(backend, name);
	memory_is_back();
	assert_true(is_answer(r));
	assert_int_equal(declare(backend, name), r == 0 ? -EEXIST : 0);
}

static void consume(struct collector *collector)
{
	mqfs_consume(backend, "jobs", 64, &collector_sink, collector);
}

/* Ends the consumer; all but the first so many go back. */
static void give_back(struct collector *collector, size_t settled)
{
	struct call cancelled = {0};

	mqfs_cancel(backend, "jobs", call_done, &cancelled);
	assert_int_equal(call_wait(&cancelled), 0);
	for (size_t i = 0; i < collector->count; i++) {
		if (i >= settled)
			assert_int_equal(settle(backend, collector->got[i], MQFS_VERB_RELEASE), 0);
		mqfs_delivery_unref(collector->got[i]);
	}
}

/* What can't be delivered now is, later. */
static void run_deliver(int n)
{
	struct collector collector = {0};

	memory_fails_after(n);
	consume(&collector);
	WAIT_UNTIL((int64_t)collector.count == ready || failed, ENOUGH_MS);
	memory_is_back();
	assert_true(WAIT_UNTIL((int64_t)collector.count == ready, ENOUGH_MS));
	give_back(&collector, 0);
	assert_int_equal(depths(backend, "jobs").ready, ready);
}

static void settle_short_of_memory(int n, enum mqfs_verb verb)
{
	struct mqfs_failed_attempt attempt = {.attempts = 1, .now_us = 1, .error = "e", .host = "h", .queue = "jobs"};
	struct mqfs_disposition disposition = {.verb = verb, .place = MQFS_PLACE_DEAD};
	struct collector collector = {0};
	struct call call = {0};

	consume(&collector);
	assert_true(WAIT_UNTIL((int64_t)collector.count == ready, ENOUGH_MS));
	if (verb == MQFS_VERB_MOVE)
		disposition.copy = mqfs_copy_for_dead(collector.got[0]->message, &attempt);
	memory_fails_after(n);
	mqfs_settle(backend, collector.got[0], &disposition, in_ms(ENOUGH_MS), call_done, &call);
	call_wait(&call);
	memory_is_back();
	assert_true(is_answer(call.result));
	give_back(&collector, call.result == 0);
	ready -= call.result == 0;
	assert_int_equal(depths(backend, "jobs").ready, ready);
}

static void run_ack(int n)
{
	settle_short_of_memory(n, MQFS_VERB_ACK);
}

static void run_move(int n)
{
	settle_short_of_memory(n, MQFS_VERB_MOVE);
}

static void run_browse(int n)
{
	struct call call = {0};

	memory_fails_after(n);
	mqfs_browse(backend, "jobs", MQFS_PLACE_DEAD, 64, in_ms(ENOUGH_MS), call_browsed, &call);
	call_wait(&call);
	memory_is_back();
	assert_true(is_answer(call.result));
	assert_int_equal(call.count > 0, call.result == 0);
	for (size_t i = 0; i < call.count; i++)
		mqfs_delivery_unref(call.found[i]);
}

static void embedded_store(void **state)
{
	(void)state;
	assert_int_equal(declare(backend, "jobs"), 0);
	ready = 0;
	exhaust(run_publish);
	exhaust(run_declare);
	exhaust(run_deliver);
	for (int i = 0; i < 40; i++, ready++)
		assert_int_equal(publish(backend, "jobs", identified("body")), 0);
	exhaust(run_ack);
	exhaust(run_move);
	exhaust(run_browse);
}

/* ---- the state file ---- */

static struct mqfs_state *file;
static struct mqfs_outbox *outbox;
static struct watching watching;

static void assert_holds(int64_t id, const char *body)
{
	struct mqfs_message *message;
	int r;

	message = load_entry(outbox, id, &r);
	assert_int_equal(r, body ? 0 : -ENOENT);
	assert_int_equal(message_is(message, body ? body : ""), body != NULL);
	mqfs_message_free(message);
}

/* The watcher is told at last. */
static void assert_told(int64_t id, const char *name)
{
	assert_true(
	    WAIT_UNTIL(seen_find(&watching, id) && strcmp(seen_find(&watching, id)->name, name) == 0, ENOUGH_MS));
}

static void run_put(int n)
{
	struct mqfs_entry entry = entry_of("jobs", ".file", MQFS_ENTRY_FILE);
	struct mqfs_message *message = identified("body");
	struct putting putting;
	int r;

	memory_fails_after(n);
	r = put_entry(outbox, &entry, message, &putting);
	memory_is_back();
	assert_true(is_answer(r));
	if (r < 0)
		return;
	assert_holds(putting.id, "body");
	assert_told(putting.id, putting.name);
}

static void run_change(int n)
{
	struct mqfs_entry entry = entry_of("jobs", ".changed", MQFS_ENTRY_FILE);
	int64_t id = put(outbox, "jobs", ".file", "body", MQFS_ENTRY_FILE);
	struct mqfs_message *message = identified("changed");
	struct putting putting;
	int r;

	entry.id = id;
	memory_fails_after(n);
	r = change_entry(outbox, &entry, message, &putting);
	memory_is_back();
	assert_true(is_answer(r));
	assert_holds(id, r == 0 ? "changed" : "body");
	if (r == 0)
		assert_told(id, putting.name);
}

static void run_load(int n)
{
	int64_t id = put(outbox, "jobs", ".file", "body", MQFS_ENTRY_FILE);
	struct mqfs_message *message;
	int r;

	memory_fails_after(n);
	message = load_entry(outbox, id, &r);
	memory_is_back();
	assert_true(is_answer(r));
	assert_int_equal(message_is(message, "body"), r == 0);
	mqfs_message_free(message);
}

static void run_remove(int n)
{
	int64_t id = put(outbox, "jobs", ".file", "body", MQFS_ENTRY_FILE);
	int r;

	assert_true(WAIT_UNTIL(seen_find(&watching, id), ENOUGH_MS));
	memory_fails_after(n);
	r = remove_entry(outbox, id);
	memory_is_back();
	assert_true(is_answer(r));
	assert_holds(id, r == 0 ? NULL : "body");
	assert_true(r < 0 || WAIT_UNTIL(seen_find(&watching, id)->removed, ENOUGH_MS));
}

static int sent_by_now(void)
{
	int sent;

	pthread_mutex_lock(&lock);
	sent = watching.sent;
	pthread_mutex_unlock(&lock);
	return sent;
}

/* A message of the line is sent, if not at once. */
static void run_send(int n)
{
	struct mqfs_entry entry = entry_of("jobs", "job", MQFS_ENTRY_WAITING);
	struct mqfs_message *message = identified("sent");
	struct putting putting;
	int sent = sent_by_now(), r;

	memory_fails_after(n);
	r = put_entry(outbox, &entry, message, &putting);
	assert_true(is_answer(r));
	if (r == 0)
		assert_true(WAIT_UNTIL(watching.sent > sent || failed, ENOUGH_MS));
	memory_is_back();
	if (r < 0)
		return;
	assert_true(WAIT_UNTIL(watching.sent > sent, ENOUGH_MS));
	ready++;
	assert_holds(putting.id, NULL);
	assert_true(depths(backend, "jobs").ready >= ready);
}

static void note_found(void *arg, int result, const struct mqfs_record *record)
{
	struct call *call = arg;

	if (result == 0)
		call->count = record->outcome;
	call_done(call, result, NULL);
}

static struct mqfs_records *records;

static void run_record(int n)
{
	struct mqfs_message *message = identified("body");
	struct mqfs_delivery *delivery = mqfs_delivery_new(message, "jobs");
	struct mqfs_copy_name name = mqfs_copy_name(delivery);
	struct call decided = {0}, found = {0};
	int r;

	memory_fails_after(n);
	r = mqfs_records_decide(records, &name, MQFS_OUTCOME_RETRY, "reason", call_done, &decided);
	assert_true(is_answer(r));
	if (r == 0)
		assert_true(is_answer(r = call_wait(&decided)));
	memory_is_back();
	assert_int_equal(mqfs_records_find(records, delivery, note_found, &found), 0);
	assert_int_equal(call_wait(&found), 0);
	assert_int_equal(found.count, r == 0 ? MQFS_OUTCOME_RETRY : MQFS_OUTCOME_NONE);
	mqfs_delivery_unref(delivery);
}

static void state_file(void **state)
{
	(void)state;
	assert_int_equal(declare(backend, "jobs"), 0);
	memset(&watching, 0, sizeof(watching));
	ready = 0;
	file = open_state(BROKER);
	atomic_fetch_add(&alive, 1); /* what was freed came from open_memstream, which is not seen here */
	outbox = open_outbox(file, backend, &watching);
	records = mqfs_records_open(file, 3600000);
	put(outbox, "jobs", ".stays", "body", MQFS_ENTRY_FILE);
	exhaust(run_put);
	exhaust(run_change);
	exhaust(run_load);
	exhaust(run_remove);
	exhaust(run_record);
	exhaust(run_send);
	mqfs_records_close(records);
	mqfs_outbox_close(outbox);
	mqfs_state_close(file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(embedded_store, begin, end),
	    cmocka_unit_test_setup_teardown(state_file, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
