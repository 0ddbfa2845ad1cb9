/* SPDX-License-Identifier: MIT */
#include "contract.h"

#include <dirent.h>

#include <mqfs/outbox.h>

/* What waits in the outbox is sent to the broker as it was put, and what the broker refuses is kept. */

static char directory[64];
static struct mqfs_state *opened;
static struct mqfs_outbox *outbox;

/* Shared: what the watcher was told. */
static int sent, refused, refused_error, refused_kind;

static void on_changed(void *arg, const struct mqfs_entry *entry)
{
	(void)arg;
	(void)entry;
}

static void on_removed(void *arg, int64_t id, bool was_sent)
{
	(void)arg;
	(void)id;
	shared_lock();
	sent += was_sent;
	shared_changed();
	shared_unlock();
}

static void on_refused(void *arg, const struct mqfs_entry *entry)
{
	(void)arg;
	shared_lock();
	refused++;
	refused_error = entry->error;
	refused_kind = (int)entry->kind;
	shared_changed();
	shared_unlock();
}

static void remove_directory(void)
{
	DIR *dir = opendir(directory);
	struct dirent *file;
	char path[400];

	while (dir && (file = readdir(dir))) {
		snprintf(path, sizeof(path), "%s/%s", directory, file->d_name);
		unlink(path);
	}
	closedir(dir);
	rmdir(directory);
}

static int setup(void **state)
{
	static const struct mqfs_outbox_watcher watcher = {
	    .changed = on_changed, .removed = on_removed, .refused = on_refused};
	static const struct mqfs_outbox_limits limits = {.max_bytes = 1 << 30, .publish_timeout_ms = ENOUGH_MS};
	char *error = NULL;

	contract_setup(state);
	sent = refused = 0;
	strcpy(directory, "/tmp/mqfs-contract-XXXXXX");
	if (!mkdtemp(directory) || mqfs_state_open(directory, contract_url(), &opened, &error) < 0)
		return -1;
	return mqfs_outbox_open(opened, backend, &limits, &watcher, NULL, &outbox);
}

static int teardown(void **state)
{
	mqfs_outbox_close(outbox);
	mqfs_state_close(opened);
	remove_directory();
	return contract_teardown(state);
}

static void put_done(void *arg, int result, int64_t id, const char *name)
{
	(void)id;
	(void)name;
	call_done(arg, result, NULL);
}

static int put(const char *queue, struct mqfs_message *message, int64_t due_us)
{
	struct mqfs_entry entry = {
	    .kind = MQFS_ENTRY_WAITING, .queue = queue, .priority = -1, .name = "x", .due_us = due_us};
	struct call *call = call_new();

	mqfs_outbox_put(outbox, &entry, message, in_ms(ENOUGH_MS), put_done, call);
	return call_wait(call);
}

static void it_is_sent_in_order_as_it_was(void **state)
{
	const char *queue = make_queue();
	struct intake *intake;
	char body[16], id[32];

	(void)state;
	for (int i = 0; i < 300; i++) {
		struct mqfs_message *message;

		snprintf(body, sizeof(body), "%d", i);
		snprintf(id, sizeof(id), "id-%d", i);
		message = message_with(body, -1, id);
		assert_int_equal(mqfs_headers_set_string(&message->headers, "color", "blue"), 0);
		assert_int_equal(put(queue, message, 0), 0);
	}
	assert_true(WAIT_UNTIL(sent == 300, ENOUGH_MS));
	intake = intake_new(backend, queue, 300);
	for (int i = 0; i < 300; i++) {
		struct mqfs_delivery *delivery = intake_next(intake);

		snprintf(id, sizeof(id), "id-%d", i);
		assert_int_equal(number_of(delivery), i);
		assert_string_equal(delivery->message->message_id, id);
		assert_string_equal(mqfs_headers_string(&delivery->message->headers, "color"), "blue");
		assert_int_equal(settle(delivery, MQFS_VERB_ACK), 0);
	}
}

static void a_delay_is_kept(void **state)
{
	const char *queue = make_queue();
	int64_t begin_ms = in_ms(0);

	(void)state;
	assert_int_equal(put(queue, message_with("later", -1, "later"), mqfs_clock_realtime_us() + 900000), 0);
	assert_true(WAIT_UNTIL(sent == 1, ENOUGH_MS));
	assert_true(has_body(intake_next(intake_new(backend, queue, 1)), "later"));
	assert_in_range(in_ms(0) - begin_ms, 850, ENOUGH_MS);
}

static void what_is_refused_is_kept(void **state)
{
	const char *queue;

	(void)state;
	assert_int_equal(put(make_name(), message_with("nowhere", -1, "a"), 0), 0);
	assert_true(WAIT_UNTIL(refused == 1, ENOUGH_MS));
	assert_int_equal(refused_error, ENOENT);
	assert_int_equal(refused_kind, MQFS_ENTRY_KEPT);
	settings.max_length = 1;
	settings.overflow = MQFS_OVERFLOW_REJECT_PUBLISH;
	queue = make_queue();
	assert_int_equal(put(queue, message_with("fits", -1, "b"), 0), 0);
	assert_true(WAIT_UNTIL(sent == 1, ENOUGH_MS));
	assert_true(ready_becomes(queue, 1));
	assert_int_equal(put(queue, message_with("full", -1, "c"), 0), 0);
	assert_true(WAIT_UNTIL(refused == 2, ENOUGH_MS));
	assert_int_equal(refused_error, ENOSPC);
	/* It stands in nobody's way. */
	queue = make_queue();
	assert_int_equal(put(queue, message_with("next", -1, "d"), 0), 0);
	assert_true(WAIT_UNTIL(sent == 2, ENOUGH_MS));
}

int test_outbox(void)
{
#define outbox_test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
	static const struct CMUnitTest tests[] = {
	    outbox_test(it_is_sent_in_order_as_it_was),
	    outbox_test(a_delay_is_kept),
	    outbox_test(what_is_refused_is_kept),
	};

	return cmocka_run_group_tests_name("outbox", tests, NULL, NULL);
}
