/* SPDX-License-Identifier: MIT */
#include "sqlite_fixture.h"

#include <dlfcn.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mount.h>

/* When the disk is full, the file is locked, a message is damaged. */

static struct mqfs_backend *backend;

static atomic_bool no_room;

/* In front of SQLite's: as where it allocates by posix_fallocate(3), on a full disk. */
int sqlite3_file_control(sqlite3 *db, const char *name, int operation, void *argument)
{
	static int (*real)(sqlite3 *, const char *, int, void *);

	if (operation == SQLITE_FCNTL_SIZE_HINT && atomic_load(&no_room))
		return SQLITE_IOERR_WRITE;
	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "sqlite3_file_control");
	return real(db, name, operation, argument);
}

static int setup(void **state)
{
	if (fixture_setup(state) < 0)
		return -1;
	backend = open_store(10000);
	return declare(backend, "jobs");
}

static int teardown(void **state)
{
	mqfs_backend_close(backend);
	return fixture_teardown(state);
}

static struct mqfs_message *large_message(size_t bytes)
{
	struct mqfs_message *message = unit_message("");

	assert_int_equal(mqfs_body_truncate(message->body, bytes), 0);
	return message;
}

/* A store on a file system of 4 MiB of this process's own. */
static void open_on_small_disk(void **state)
{
	assert_int_equal(fixture_setup(state), 0);
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("tmpfs", directory, "tmpfs", 0, "size=4m") < 0) {
		rmdir(directory);
		skip();
	}
	backend = open_store(10000);
	assert_int_equal(declare(backend, "jobs"), 0);
}

static void close_small_disk(void **state)
{
	mqfs_backend_close(backend);
	assert_int_equal(umount2(directory, MNT_DETACH), 0);
	assert_int_equal(fixture_teardown(state), 0);
}

/* What is there can be consumed, and makes room for more. */
static void consume_all(int count)
{
	struct collector collector = {0};

	mqfs_consume(backend, "jobs", 1, &collector_sink, &collector);
	for (int i = 0; i < count; i++) {
		assert_true(WAIT_UNTIL(collector.count > (size_t)i, ENOUGH_MS));
		assert_int_equal(settle(backend, collector.got[i], MQFS_VERB_ACK), 0);
	}
	assert_int_equal(publish(backend, "jobs", large_message(50000)), 0);
	collector_end(&collector, backend, "jobs");
}

static void a_full_disk_is_enospc(void **state)
{
	int fits = 0, r;

	open_on_small_disk(state);
	while ((r = publish(backend, "jobs", large_message(50000))) == 0)
		fits++;
	assert_int_equal(r, -ENOSPC);
	assert_in_range(fits, 10, 80);
	assert_int_equal(publish(backend, "jobs", large_message(50000)), -ENOSPC);
	assert_int_equal(depths(backend, "jobs").ready, fits);
	{
		struct mqfs_backend_status status;

		mqfs_backend_status(backend, &status);
		assert_string_equal(status.reason, "the disk is full");
	}
	consume_all(fits);
	close_small_disk(state);
}

/* The room that a refused one had in the file is no more: what comes then needs its own. */
static void a_refusal_leaves_no_room_behind(void **state)
{
	int fits = 0;

	open_on_small_disk(state);
	assert_int_equal(publish(backend, "jobs", large_message(2500000)), -ENOSPC);
	while (publish(backend, "jobs", large_message(50000)) == 0)
		fits++;
	assert_in_range(fits, 10, 60);
	consume_all(fits);
	close_small_disk(state);
}

static void what_cannot_be_allocated_is_enospc(void **state)
{
	(void)state;
	atomic_store(&no_room, true);
	assert_int_equal(publish(backend, "jobs", large_message(2 << 20)), -ENOSPC);
	atomic_store(&no_room, false);
	assert_int_equal(publish(backend, "jobs", large_message(2 << 20)), 0);
}

static void a_locked_store_is_waited_for(void **state)
{
	struct call reads = {0}, late = {0}, waits = {0};
	int64_t begin_ms;
	sqlite3 *other;

	(void)state;
	assert_int_equal(sqlite3_open(path, &other), SQLITE_OK);
	assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	begin_ms = mqfs_clock_monotonic_ms();
	mqfs_publish(backend, "jobs", MQFS_PLACE_READY, 0, unit_message("late"), in_ms(500), call_done, &late);
	mqfs_publish(backend, "jobs", MQFS_PLACE_READY, 0, unit_message("in time"), in_ms(ENOUGH_MS), call_done,
	             &waits);
	mqfs_queue_depths(backend, "jobs", in_ms(ENOUGH_MS), call_counted, &reads);
	assert_int_equal(call_wait(&reads), 0);
	assert_false(late.done);
	assert_int_equal(call_wait(&late), -ETIMEDOUT);
	assert_in_range(mqfs_clock_monotonic_ms() - begin_ms, 400, 5000);
	assert_false(waits.done);
	assert_int_equal(sqlite3_exec(other, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(other);
	assert_int_equal(call_wait(&waits), 0);
	assert_int_equal(depths(backend, "jobs").ready, 1);
}

static void a_locked_store_can_be_closed(void **state)
{
	struct call waits = {0};
	int64_t begin_ms;
	sqlite3 *other;

	(void)state;
	assert_int_equal(sqlite3_open(path, &other), SQLITE_OK);
	assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	mqfs_publish(backend, "jobs", MQFS_PLACE_READY, 0, unit_message("never"), MQFS_NEVER, call_done, &waits);
	begin_ms = mqfs_clock_monotonic_ms();
	mqfs_backend_close(backend);
	assert_true(mqfs_clock_monotonic_ms() - begin_ms < 5000);
	assert_true(waits.done);
	assert_int_equal(waits.result, -ESHUTDOWN);
	sqlite3_exec(other, "COMMIT", NULL, NULL, NULL);
	sqlite3_close(other);
	backend = open_store(10000);
	assert_int_equal(depths(backend, "jobs").ready, 0);
}

#define REFUSE(event) "CREATE TRIGGER refuse BEFORE " event " BEGIN SELECT raise(ABORT, 'no'); END"

static int publish_delayed(const char *text, int64_t delay_ms)
{
	struct call call = {0};

	mqfs_publish(backend, "jobs", MQFS_PLACE_RETRY, delay_ms, unit_message(text), in_ms(ENOUGH_MS), call_done,
	             &call);
	return call_wait(&call);
}

/* One publisher fails again and again: what is due comes, and the lease is renewed. */
static void failing_publishes_hold_up_nothing(void **state)
{
	struct collector collector = {0};
	int64_t until_ms, give_up_ms = in_ms(ENOUGH_MS);
	bool renewed = false;

	(void)state;
	mqfs_backend_close(backend);
	backend = open_store(600);
	mqfs_consume(backend, "jobs", 8, &collector_sink, &collector);
	assert_true(WAIT_UNTIL(collector.drained > 0, ENOUGH_MS));
	sql(REFUSE("INSERT ON contents WHEN NEW.body = CAST('poison' AS BLOB)"));
	until_ms = sql_integer("SELECT lease_until FROM mounts");
	assert_int_equal(publish_delayed("due", 100), 0);
	while (collector.count == 0 || !renewed) {
		assert_true(mqfs_clock_monotonic_ms() < give_up_ms);
		assert_int_equal(publish(backend, "jobs", unit_message("poison")), -EIO);
		renewed = sql_integer("SELECT lease_until FROM mounts") > until_ms;
	}
	assert_true(has_body(collector.got[0], "due"));
	collector_end(&collector, backend, "jobs");
}

static void assert_trouble(const char *text)
{
	struct mqfs_backend_status status;

	mqfs_backend_status(backend, &status);
	assert_string_equal(status.reason, text);
}

/* One failed, and what came after it worked. */
static void trouble_is_over_with_its_cause(void **state)
{
	struct call bad = {0}, good = {0};
	sqlite3 *other;

	(void)state;
	sql(REFUSE("INSERT ON contents WHEN NEW.body = CAST('poison' AS BLOB)"));
	assert_int_equal(publish(backend, "jobs", unit_message("poison")), -EIO);
	/* Told to others first, noted then: the next request sees it. */
	depths(backend, "jobs");
	assert_trouble("the store could not be read or written");
	/* Both wait for this, and so are one transaction. */
	assert_int_equal(sqlite3_open(path, &other), SQLITE_OK);
	assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	mqfs_publish(backend, "jobs", MQFS_PLACE_READY, 0, unit_message("poison"), in_ms(ENOUGH_MS), call_done, &bad);
	mqfs_publish(backend, "jobs", MQFS_PLACE_READY, 0, unit_message("good"), in_ms(ENOUGH_MS), call_done, &good);
	assert_int_equal(sqlite3_exec(other, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(other);
	assert_int_equal(call_wait(&bad), -EIO);
	assert_int_equal(call_wait(&good), 0);
	depths(backend, "jobs");
	assert_trouble("");
}

static void what_cannot_be_woken_holds_up_nothing(void **state)
{
	struct collector collector = {0};

	(void)state;
	sql(REFUSE("UPDATE ON messages WHEN OLD.state = 2"));
	assert_int_equal(publish_delayed("stuck", 0), 0);
	mqfs_consume(backend, "jobs", 8, &collector_sink, &collector);
	for (size_t i = 1; i <= 3; i++) {
		assert_int_equal(publish(backend, "jobs", unit_message("free")), 0);
		assert_true(WAIT_UNTIL(collector.count == i, ENOUGH_MS));
	}
	assert_int_equal(depths(backend, "jobs").retry, 1);
	collector_end(&collector, backend, "jobs");
}

/* The body is kept, and what follows is not held up. */
static void a_damaged_message_goes_to_the_dead(void **state)
{
	struct collector collector = {0};
	struct call dead;

	(void)state;
	assert_int_equal(publish(backend, "jobs", unit_message("damaged")), 0);
	assert_int_equal(publish(backend, "jobs", unit_message("whole")), 0);
	sql("UPDATE contents SET head = x'0101ffffffff' WHERE body = CAST('damaged' AS BLOB)");
	mqfs_consume(backend, "jobs", 1, &collector_sink, &collector);
	assert_true(WAIT_UNTIL(collector.count == 1, ENOUGH_MS));
	assert_true(has_body(collector.got[0], "whole"));
	assert_int_equal(depths(backend, "jobs").dead, 1);
	dead = browse(backend, "jobs", MQFS_PLACE_DEAD);
	assert_int_equal(dead.count, 1);
	assert_true(has_body(dead.found[0], "damaged"));
	assert_string_equal(mqfs_headers_string(&dead.found[0]->message->headers, "mqfs-dead-reason"), "damaged");
	assert_int_equal(settle(backend, dead.found[0], MQFS_VERB_ACK), 0);
	mqfs_delivery_unref(dead.found[0]);
	collector_end(&collector, backend, "jobs");
}

/* READY, but with a mount: nobody can let it go. */
static void a_row_that_cannot_make_room_is_eio(void **state)
{
	struct mqfs_settings settings;
	struct call call = {0};

	(void)state;
	mqfs_settings_init(&settings);
	settings.max_length = 1;
	settings.overflow = MQFS_OVERFLOW_DROP_HEAD;
	mqfs_queue_declare(backend, "short", &settings, in_ms(ENOUGH_MS), call_done, &call);
	assert_int_equal(call_wait(&call), 0);
	assert_int_equal(publish(backend, "short", unit_message("x")), 0);
	sql("UPDATE messages SET mount = 7");
	assert_int_equal(publish(backend, "short", unit_message("y")), -EIO);
	assert_int_equal(publish(backend, "jobs", unit_message("z")), 0);
}

/* Rows that are due and have no queue, no content, or a mount: they hold up nothing, and what they have stays. */
static void damaged_rows_that_are_due_hold_up_nothing(void **state)
{
	struct collector collector = {0};

	(void)state;
	sql("INSERT INTO messages (id, queue, state, priority, generation, mount, next_at, expires_at)"
	    " SELECT 1001, 999, 2, 0, 1, NULL, 1, NULL UNION ALL SELECT 1002, id, 2, 0, 1, 7, 1, NULL FROM queues"
	    " UNION ALL SELECT 1003, id, 0, 0, 1, NULL, NULL, 1 FROM queues"
	    " UNION ALL SELECT 1004, 999, 0, 0, 1, NULL, NULL, 1;"
	    "UPDATE queues SET ready = ready + 1, retry = retry + 1; UPDATE store SET sequence = 2000");
	mqfs_consume(backend, "jobs", 8, &collector_sink, &collector);
	for (size_t i = 1; i <= 3; i++) {
		assert_int_equal(publish_delayed("due", 1), 0);
		assert_true(WAIT_UNTIL(collector.count == i, ENOUGH_MS));
	}
	assert_int_equal(sql_integer("SELECT count(*) FROM messages WHERE id IN (1001, 1002, 1004)"), 3);
	assert_int_equal(depths(backend, "jobs").ready, 0);
	collector_end(&collector, backend, "jobs");
}

static void a_leased_row_without_queue_holds_up_nothing(void **state)
{
	struct collector collector = {0};

	(void)state;
	assert_int_equal(publish(backend, "jobs", unit_message("held")), 0);
	sql("UPDATE messages SET state = 1, mount = 7; UPDATE queues SET ready = 0, leased = 1;"
	    "INSERT INTO messages (id, queue, state, priority, generation, mount) VALUES (1001, 0, 1, 0, 1, 7);"
	    "UPDATE store SET sequence = 2000");
	mqfs_consume(backend, "jobs", 8, &collector_sink, &collector);
	assert_true(WAIT_UNTIL(collector.count == 1, ENOUGH_MS));
	assert_true(collector.got[0]->redelivered);
	assert_int_equal(depths(backend, "jobs").ready, 0);
	collector_end(&collector, backend, "jobs");
}

/* A page of the middle is overwritten while the store is open. */
static void a_damaged_page_is_eio(void **state)
{
	char rubbish[4096];
	struct stat status;
	int fd, r = 0;

	(void)state;
	for (int i = 0; i < 500; i++)
		assert_int_equal(publish(backend, "jobs", unit_message("a task")), 0);
	mqfs_backend_close(backend);
	backend = open_store(10000);
	assert_int_equal(stat(path, &status), 0);
	memset(rubbish, 0x5a, sizeof(rubbish));
	fd = open(path, O_WRONLY);
	for (off_t at = 4096; at < status.st_size; at += 4096)
		assert_int_equal(pwrite(fd, rubbish, sizeof(rubbish), at), sizeof(rubbish));
	/* Not closed yet: that would drop the locks that the store holds in this process. */
	r = publish(backend, "jobs", unit_message("no more"));
	assert_int_equal(r, -EIO);
	mqfs_backend_close(backend);
	close(fd);
	unlink(path);
	backend = open_store(10000);
}

/* The counts are kept, not counted: they have to stay right through everything. */
/* Numbers that no store ever gets to. */
static void absurd_numbers_are_harmless(void **state)
{
	(void)state;
	sql("UPDATE store SET sequence = 9223372036854775807");
	assert_int_equal(publish(backend, "jobs", unit_message("x")), -EIO);
	sql("UPDATE store SET sequence = -1");
	assert_int_equal(publish(backend, "jobs", unit_message("x")), -EIO);
	sql("UPDATE store SET sequence = 1000;"
	    "UPDATE queues SET ready = 9223372036854775807, dead = -5, message_ttl = 9223372036854775807");
	assert_int_equal(publish(backend, "jobs", unit_message("x")), 0);
	assert_true(depths(backend, "jobs").ready > 0);
	assert_int_equal(depths(backend, "jobs").dead, 0);
}

static void a_name_with_a_zero_is_no_queue(void **state)
{
	(void)state;
	sql("INSERT INTO queues SELECT id + 1, 'jobs' || char(0) || 'x', 0, 0, 0, 0, 0, 7, 0, 0, 0 FROM queues");
	assert_int_equal(publish(backend, "jobs", unit_message("x")), 0);
	assert_int_equal(depths(backend, "jobs").ready, 1);
}

static void the_counts_stay_right(void **state)
{
	static const char drift[] = "SELECT count(*) FROM queues q WHERE"
	                            " ready <> (SELECT count(*) FROM messages WHERE queue = q.id AND state = 0)"
	                            " OR leased <> (SELECT count(*) FROM messages WHERE queue = q.id AND state = 1)"
	                            " OR retry <> (SELECT count(*) FROM messages WHERE queue = q.id AND state = 2)"
	                            " OR dead <> (SELECT count(*) FROM messages WHERE queue = q.id AND state = 3)";
	struct collector collector = {0};
	uint64_t random = 815;

	(void)state;
	assert_int_equal(declare(backend, "other"), 0);
	mqfs_consume(backend, "jobs", 8, &collector_sink, &collector);
	for (size_t i = 0; i < 60; i++) {
		struct mqfs_disposition move = {.verb = MQFS_VERB_MOVE, .delay_ms = (int64_t)i % 3};
		struct mqfs_message *message = unit_message("a task");
		struct mqfs_delivery *delivery;
		struct call call = {0};

		message->priority = (int)(unit_random(&random) % 4);
		if (i % 7 == 0)
			assert_int_equal(mqfs_message_set_string(&message->expiration, "1"), 0);
		assert_int_equal(publish(backend, i % 5 ? "jobs" : "other", message), 0);
		if (i % 5 == 0 || i % 7 == 0)
			continue;
		assert_true(WAIT_UNTIL(collector.count > 0, ENOUGH_MS));
		pthread_mutex_lock(&lock);
		delivery = collector.got[--collector.count];
		pthread_mutex_unlock(&lock);
		move.queue = i % 2 ? "other" : NULL;
		move.place = unit_random(&random) % 3;
		move.copy = mqfs_message_copy(delivery->message);
		mqfs_settle(backend, delivery, &move, in_ms(ENOUGH_MS), call_done, &call);
		assert_int_equal(call_wait(&call), 0);
		mqfs_delivery_unref(delivery);
		assert_int_equal(sql_integer(drift), 0);
	}
	collector_end(&collector, backend, "jobs");
	mqfs_backend_close(backend);
	assert_int_equal(sql_integer(drift), 0);
	assert_int_equal(sql_integer("SELECT (SELECT count(*) FROM messages) = (SELECT count(*) FROM contents)"), 1);
	assert_int_equal(sql_integer("SELECT count(*) FROM messages WHERE mount IS NOT NULL"), 0);
	backend = open_store(10000);
}

int main(void)
{
#define STORE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	static const struct CMUnitTest tests[] = {
	    STORE_TEST(a_locked_store_is_waited_for),
	    STORE_TEST(a_locked_store_can_be_closed),
	    STORE_TEST(what_cannot_be_allocated_is_enospc),
	    STORE_TEST(failing_publishes_hold_up_nothing),
	    STORE_TEST(trouble_is_over_with_its_cause),
	    STORE_TEST(what_cannot_be_woken_holds_up_nothing),
	    STORE_TEST(a_damaged_message_goes_to_the_dead),
	    STORE_TEST(a_row_that_cannot_make_room_is_eio),
	    STORE_TEST(damaged_rows_that_are_due_hold_up_nothing),
	    STORE_TEST(a_leased_row_without_queue_holds_up_nothing),
	    STORE_TEST(a_damaged_page_is_eio),
	    STORE_TEST(absurd_numbers_are_harmless),
	    STORE_TEST(a_name_with_a_zero_is_no_queue),
	    STORE_TEST(the_counts_stay_right),
	    cmocka_unit_test(a_full_disk_is_enospc),
	    cmocka_unit_test(a_refusal_leaves_no_room_behind),
	};

	return cmocka_run_group_tests_name("sqlite trouble", tests, NULL, NULL);
}
