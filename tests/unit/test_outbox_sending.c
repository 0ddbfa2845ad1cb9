/* SPDX-License-Identifier: MIT */
#include "outbox_fixture.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* The outbox's sender. The embedded store stands for the broker; while another process has locked it, it is silent. */

static struct mqfs_backend *backend;
static struct mqfs_state *state;
static struct mqfs_outbox *outbox;
static struct watching watching;
static char store[sizeof(path)];
static sqlite3 *locker;

/* The machine has slept so long, as leases see it. */
static atomic_int slept_s;

int clock_gettime(clockid_t clock, struct timespec *time)
{
	int r = (int)syscall(SYS_clock_gettime, clock, time);

	if (r == 0 && clock == CLOCK_BOOTTIME)
		time->tv_sec += atomic_load(&slept_s);
	return r;
}

static void open_all(void)
{
	state = open_state(BROKER);
	memset(&watching, 0, sizeof(watching));
	outbox = open_outbox(state, backend, &watching);
}

static void close_all(void)
{
	mqfs_outbox_close(outbox);
	mqfs_state_close(state);
}

static int setup(void **unused)
{
	if (fixture_setup(unused) < 0)
		return -1;
	snprintf(store, sizeof(store), "%s", path);
	limits.publish_timeout_ms = 1000;
	backend = open_store(10000);
	assert_int_equal(declare(backend, "jobs"), 0);
	open_all();
	return 0;
}

static void loud(void);

static int teardown(void **unused)
{
	loud();
	close_all();
	mqfs_backend_close(backend);
	return fixture_teardown(unused);
}

/* From now on the broker says nothing. */
static void silent(void)
{
	assert_int_equal(sqlite3_open(store, &locker), SQLITE_OK);
	sqlite3_busy_timeout(locker, 5000);
	assert_int_equal(sqlite3_exec(locker, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
}

static void loud(void)
{
	if (!locker)
		return;
	sqlite3_exec(locker, "COMMIT", NULL, NULL, NULL);
	sqlite3_close(locker);
	locker = NULL;
}

static int64_t store_integer(const char *text)
{
	char own[sizeof(path)];
	int64_t value;

	snprintf(own, sizeof(own), "%s", path);
	snprintf(path, sizeof(path), "%s", store);
	value = sql_integer(text);
	snprintf(path, sizeof(path), "%s", own);
	return value;
}

/* Nothing tells: the state file is asked until it is true. */
static void sql_becomes(const char *condition)
{
	int64_t until_ms = in_ms(ENOUGH_MS);

	while (!sql_integer(condition)) {
		if (mqfs_clock_monotonic_ms() > until_ms)
			fail_msg("never: %s", condition);
		usleep(2000);
	}
}

static void put_numbers(struct mqfs_outbox *at, const char *queue, int from, int to)
{
	struct mqfs_entry entry = entry_of(queue, "x", MQFS_ENTRY_WAITING);
	struct putting *puttings = calloc((size_t)to, sizeof(*puttings));
	char body[16];

	for (int i = from; i < to; i++) {
		snprintf(body, sizeof(body), "%06d", i);
		mqfs_outbox_put(at, &entry, identified(body), in_ms(ENOUGH_MS), putting_done, &puttings[i]);
	}
	for (int i = from; i < to; i++)
		assert_int_equal(putting_wait(&puttings[i]), 0);
	free(puttings);
}

/* How many messages were sent after one that was put later. */
static const char disorder[] =
    "SELECT count(*) FROM contents a JOIN contents b ON b.id = a.id + 1 WHERE b.body < a.body";

static void what_waits_is_sent_in_order(void **unused)
{
	struct mqfs_outbox_depth depth;
	int r;

	(void)unused;
	put_numbers(outbox, "jobs", 0, 1000);
	assert_true(WAIT_UNTIL(watching.sent == 1000, ENOUGH_MS));
	assert_int_equal(store_integer("SELECT count(DISTINCT body) FROM contents"), 1000);
	assert_int_equal(store_integer("SELECT count(*) FROM contents"), 1000);
	assert_int_equal(store_integer(disorder), 0);
	assert_int_equal(sql_integer("SELECT count(*) FROM entry"), 0);
	assert_int_equal(sql_integer("SELECT bytes FROM about"), 0);
	assert_true(WAIT_UNTIL(watching.sent == 1000, ENOUGH_MS));
	load_entry(outbox, 1, &r); /* the oldest is looked for after the last was told */
	assert_int_equal(r, -ENOENT);
	mqfs_outbox_depth(outbox, NULL, &depth);
	assert_int_equal(depth.messages, 0);
	assert_int_equal(depth.oldest_us, 0);
	assert_int_equal(watching.refused + watching.removed, 0);
}

static void a_message_arrives_as_it_was(void **unused)
{
	struct collector collector = {0};
	struct mqfs_entry entry = entry_of("jobs", "x", MQFS_ENTRY_WAITING);
	struct mqfs_message *message = identified("a body");
	struct putting putting;
	char id[MQFS_UUID_BYTES];

	(void)unused;
	snprintf(id, sizeof(id), "%s", message->message_id);
	mqfs_headers_set_string(&message->headers, "color", "blue");
	message->priority = 7;
	assert_int_equal(put_entry(outbox, &entry, message, &putting), 0);
	mqfs_consume(backend, "jobs", 1, &collector_sink, &collector);
	assert_true(WAIT_UNTIL(collector.count == 1, ENOUGH_MS));
	assert_true(has_body(collector.got[0], "a body"));
	assert_string_equal(collector.got[0]->message->message_id, id);
	assert_int_equal(collector.got[0]->message->priority, 7);
	assert_string_equal(mqfs_headers_string(&collector.got[0]->message->headers, "color"), "blue");
	collector_end(&collector, backend, "jobs");
}

/* What is left of P3's delay. */
static void a_delay_runs_on(void **unused)
{
	struct mqfs_entry entry = entry_of("jobs", "x", MQFS_ENTRY_WAITING);
	int64_t due_us = mqfs_clock_realtime_us() + 60 * 1000000;
	struct putting putting;
	char text[128];

	(void)unused;
	entry.due_us = due_us;
	assert_int_equal(put_entry(outbox, &entry, identified("later"), &putting), 0);
	entry.due_us = mqfs_clock_realtime_us() - 1;
	assert_int_equal(put_entry(outbox, &entry, identified("past"), &putting), 0);
	assert_true(WAIT_UNTIL(watching.sent == 2, ENOUGH_MS));
	assert_int_equal(store_integer("SELECT count(*) FROM messages WHERE state = 0"), 1);
	snprintf(text, sizeof(text), "SELECT count(*) FROM messages WHERE state = 2 AND next_at BETWEEN %lld AND %lld",
	         (long long)due_us, (long long)due_us + 2000000);
	assert_int_equal(store_integer(text), 1);
}

static void a_refused_one_leaves_the_line(void **unused)
{
	struct mqfs_entry entry = entry_of("nowhere", "x", MQFS_ENTRY_WAITING);
	struct putting putting;
	struct mqfs_message *message;
	struct seen *seen;
	int r;

	(void)unused;
	entry.due_us = mqfs_clock_realtime_us() + 60 * 1000000;
	assert_int_equal(put_entry(outbox, &entry, identified("lost?"), &putting), 0);
	assert_true(WAIT_UNTIL(watching.refused == 1, ENOUGH_MS));
	seen = seen_find(&watching, putting.id);
	assert_int_equal(seen->entry.kind, MQFS_ENTRY_KEPT);
	assert_int_equal(seen->entry.error, ENOENT);
	assert_true(seen->reason[0]);
	assert_in_range(-seen->entry.due_us, 50 * 1000000, 60 * 1000000); /* the delay that is left */
	message = load_entry(outbox, putting.id, &r);
	assert_true(message_is(message, "lost?"));
	mqfs_message_free(message);
	/* Once the queue is there it can be sent again; it is the last of the line then. */
	assert_int_equal(declare(backend, "nowhere"), 0);
	entry.id = putting.id;
	entry.due_us = 0;
	assert_int_equal(change_entry(outbox, &entry, NULL, &putting), 0);
	assert_true(WAIT_UNTIL(watching.sent == 1, ENOUGH_MS));
	assert_int_equal(watching.refused, 1);
}

static void a_full_queue_refuses_the_rest(void **unused)
{
	struct mqfs_settings settings;
	struct call call = {0};

	(void)unused;
	mqfs_settings_init(&settings);
	settings.max_length = 300;
	settings.overflow = MQFS_OVERFLOW_REJECT_PUBLISH;
	mqfs_queue_declare(backend, "full", &settings, in_ms(ENOUGH_MS), call_done, &call);
	assert_int_equal(call_wait(&call), 0);
	put_numbers(outbox, "full", 0, 310);
	put_numbers(outbox, "jobs", 0, 10);
	assert_true(WAIT_UNTIL(watching.sent == 310 && watching.refused == 10, ENOUGH_MS));
	assert_int_equal(sql_integer("SELECT count(*) FROM entry WHERE kind = 1 AND error = 28"), 10);
}

/* One at a time goes to a broker that is silent; what waits can be taken back, what is in flight can't. */
static void a_silent_broker_gets_one_at_a_time(void **unused)
{
	struct mqfs_entry entry = entry_of("jobs", "y", MQFS_ENTRY_KEPT);
	struct mqfs_outbox_depth depth;
	struct putting putting;
	int64_t begin_us = mqfs_clock_realtime_us(), first, last;

	(void)unused;
	silent();
	put_numbers(outbox, "jobs", 0, 300);
	assert_true(WAIT_UNTIL(watching.count == 300, ENOUGH_MS));
	mqfs_outbox_depth(outbox, "jobs", &depth);
	assert_int_equal(depth.messages, 300);
	assert_int_equal(depth.bytes, 300 * 6);
	assert_in_range(depth.oldest_us, begin_us, mqfs_clock_realtime_us());
	first = watching.entries[0].id;
	last = watching.entries[299].id;
	sql_becomes("SELECT flight_to > 0 FROM line");
	assert_int_equal(sql_integer("SELECT count(*) FROM entry, line WHERE position <= flight_to"), 1);
	assert_int_equal(remove_entry(outbox, first), -EBUSY);
	entry.id = first;
	assert_int_equal(change_entry(outbox, &entry, NULL, &putting), -EBUSY);
	assert_int_equal(remove_entry(outbox, last), 0);
	/* Again and again. */
	sql_becomes("SELECT generation >= 3 FROM line");
	assert_int_equal(watching.sent, 0);
	loud();
	assert_true(WAIT_UNTIL(watching.sent == 299, ENOUGH_MS));
	assert_int_equal(store_integer("SELECT count(*) FROM contents"), 299);
	assert_int_equal(store_integer(disorder), 0);
	assert_int_equal(remove_entry(outbox, first), -ENOENT);
}

static void a_close_leaves_it_waiting(void **unused)
{
	int64_t begin_ms;

	(void)unused;
	limits.publish_timeout_ms = 20000;
	close_all();
	open_all();
	silent();
	put_numbers(outbox, "jobs", 0, 3);
	sql_becomes("SELECT flight_to > 0 FROM line");
	usleep(100000); /* from the mark to the broker */
	begin_ms = mqfs_clock_monotonic_ms();
	mqfs_outbox_close(outbox);
	assert_in_range(mqfs_clock_monotonic_ms() - begin_ms, 1500, 10000);
	assert_int_equal(sql_integer("SELECT flight_to FROM line"), 0);
	assert_int_equal(sql_integer("SELECT count(*) FROM entry WHERE kind = 0"), 3);
	mqfs_state_close(state);
	loud();
	open_all();
	assert_true(WAIT_UNTIL(watching.sent == 3, ENOUGH_MS));
	assert_int_equal(store_integer("SELECT count(DISTINCT body) FROM contents"), 3);
}

/* Both take part; each message is sent once, and in its order. */
static void one_of_two_mounts_sends(void **unused)
{
	static struct watching elsewhere;
	struct mqfs_backend *other_backend;
	struct mqfs_state *other_state;
	struct mqfs_outbox *other;

	(void)unused;
	snprintf(path, sizeof(path), "%s", store);
	other_backend = open_store(10000);
	other_state = open_state(BROKER);
	memset(&elsewhere, 0, sizeof(elsewhere));
	other = open_outbox(other_state, other_backend, &elsewhere);
	for (int i = 0; i < 10; i++)
		put_numbers(i % 2 ? other : outbox, "jobs", i * 100, (i + 1) * 100);
	assert_true(WAIT_UNTIL(watching.sent == 1000 && elsewhere.sent == 1000, ENOUGH_MS));
	assert_int_equal(store_integer("SELECT count(*) FROM contents"), 1000);
	assert_int_equal(store_integer("SELECT count(DISTINCT body) FROM contents"), 1000);
	assert_int_equal(store_integer(disorder), 0);
	mqfs_outbox_close(other);
	mqfs_state_close(other_state);
	mqfs_backend_close(other_backend);
}

/* A flight that takes longer than a lease keeps its line. */
static void a_lease_is_renewed(void **unused)
{
	char text[96];
	int64_t until_ms;

	(void)unused;
	limits.publish_timeout_ms = 20000;
	close_all();
	open_all();
	silent();
	put_numbers(outbox, "jobs", 0, 2);
	sql_becomes("SELECT flight_to > 0 FROM line");
	until_ms = sql_integer("SELECT lease_until FROM line");
	snprintf(text, sizeof(text), "SELECT lease_until > %lld FROM line", (long long)until_ms);
	while (sql_integer(text) == 0) {
		assert_true(mqfs_clock_boottime_ms() < until_ms);
		usleep(50000);
	}
	assert_int_equal(sql_integer("SELECT generation FROM line"), 1);
	loud();
	assert_true(WAIT_UNTIL(watching.sent == 2, ENOUGH_MS));
	assert_int_equal(store_integer("SELECT count(*) FROM contents"), 2);
}

/* Its lease is over, but it is on its way all the same. */
static void what_is_on_the_way_cannot_be_taken_back(void **unused)
{
	struct mqfs_entry entry = entry_of("jobs", "y", MQFS_ENTRY_KEPT);
	struct putting putting;
	int64_t id;

	(void)unused;
	limits.publish_timeout_ms = 20000;
	close_all();
	open_all();
	silent();
	id = put(outbox, "jobs", "x", "x", MQFS_ENTRY_WAITING);
	while (sql_integer("SELECT flight_to FROM line") == 0)
		usleep(1000);
	atomic_fetch_add(&slept_s, 10);
	assert_int_equal(remove_entry(outbox, id), -EBUSY);
	atomic_fetch_add(&slept_s, 10);
	entry.id = id;
	assert_int_equal(change_entry(outbox, &entry, NULL, &putting), -EBUSY);
	loud();
	assert_true(WAIT_UNTIL(watching.sent == 1, ENOUGH_MS));
	assert_int_equal(remove_entry(outbox, id), -ENOENT);
}

/* The broker has it, and the file doesn't take that in: nobody else may send it, or take it back. */
static void a_lease_is_renewed_while_nothing_can_be_written(void **unused)
{
	int64_t until_ms, give_up_ms = in_ms(ENOUGH_MS), id;
	char text[96];

	(void)unused;
	sql("CREATE TRIGGER refuse BEFORE DELETE ON entry BEGIN SELECT raise(ABORT, 'no'); END");
	id = put(outbox, "jobs", "x", "x", MQFS_ENTRY_WAITING);
	while (store_integer("SELECT count(*) FROM contents") == 0)
		usleep(1000);
	until_ms = sql_integer("SELECT lease_until FROM line");
	snprintf(text, sizeof(text), "SELECT lease_until > %lld FROM line", (long long)until_ms);
	while (sql_integer(text) == 0) {
		assert_true(mqfs_clock_monotonic_ms() < give_up_ms);
		usleep(20000);
	}
	assert_int_equal(remove_entry(outbox, id), -EBUSY);
	sql("DROP TRIGGER refuse");
	assert_true(WAIT_UNTIL(watching.sent == 1, ENOUGH_MS));
	assert_int_equal(store_integer("SELECT count(*) FROM contents"), 1);
}

/* Puts itself behind the job that takes the line, and lets the machine sleep before that is on the disk. */
struct sleeper {
	struct state_member member;
	struct state_job job;
	bool slept;
};

static int sleeper_run(struct mqfs_state *at, struct state_job *job)
{
	(void)at;
	(void)job;
	atomic_fetch_add(&slept_s, 10);
	return 0;
}

static void sleeper_done(struct mqfs_state *at, struct state_job *job)
{
	(void)at;
	(void)job;
}

/* After the outbox's, which tells of a message and begins to send it in one tick. */
static int64_t sleeper_tick(struct mqfs_state *at, struct state_member *member, int64_t now_ms)
{
	struct sleeper *sleeper = (struct sleeper *)member;

	(void)now_ms;
	if (watching.count == 0 || sleeper->slept)
		return MQFS_NEVER;
	sleeper->slept = true;
	sleeper->job = (struct state_job){.run = sleeper_run, .done = sleeper_done, .deadline_ms = MQFS_NEVER};
	state_submit(at, &sleeper->job);
	return MQFS_NEVER;
}

/* The lease may be another's when the line has at last been taken. */
static void what_took_too_long_is_not_sent(void **unused)
{
	struct sleeper sleeper = {.member.tick = sleeper_tick};

	(void)unused;
	close_all();
	state = open_state(BROKER);
	state_join(state, &sleeper.member);
	memset(&watching, 0, sizeof(watching));
	outbox = open_outbox(state, backend, &watching);
	put(outbox, "jobs", "x", "x", MQFS_ENTRY_WAITING);
	assert_true(WAIT_UNTIL(watching.sent == 1, ENOUGH_MS));
	state_leave(state, &sleeper.member);
	assert_true(sleeper.slept);
	assert_int_equal(sql_integer("SELECT generation FROM line"), 2);
	assert_int_equal(store_integer("SELECT count(*) FROM contents"), 1);
}

/* As a mount that was stopped past its lease finds it. */
static void a_lost_line_is_left_to_the_other(void **unused)
{
	(void)unused;
	limits.publish_timeout_ms = 20000;
	close_all();
	open_all();
	silent();
	put_numbers(outbox, "jobs", 0, 2);
	sql_becomes("SELECT flight_to > 0 FROM line");
	sql("UPDATE line SET generation = generation + 1, lease_until = lease_until + 500");
	loud();
	/* What was confirmed is taken out; the other's mark stays. */
	assert_true(WAIT_UNTIL(watching.sent == 1, ENOUGH_MS));
	assert_true(sql_integer("SELECT flight_to FROM line") > 0);
	assert_int_equal(sql_integer("SELECT count(*) FROM entry WHERE kind = 0"), 1);
	/* It turns out to be dead. */
	assert_true(WAIT_UNTIL(watching.sent == 2, ENOUGH_MS));
	assert_int_equal(store_integer("SELECT count(*) FROM contents"), 2);
}

static void a_line_of_another_boot_is_free(void **unused)
{
	(void)unused;
	silent();
	put_numbers(outbox, "jobs", 0, 5);
	sql_becomes("SELECT flight_to > 0 FROM line");
	close_all();
	sql("UPDATE line SET flight_to = 999999, boot = 'another', lease_until = 9000000000000000000");
	loud();
	open_all();
	assert_true(WAIT_UNTIL(watching.sent == 5, ENOUGH_MS));
}

static void a_damaged_one_is_kept(void **unused)
{
	int64_t id = put(outbox, "jobs", "held", "damaged", MQFS_ENTRY_FILE);
	struct mqfs_entry entry = entry_of("jobs", "held", MQFS_ENTRY_WAITING);
	struct putting putting;

	(void)unused;
	sql("UPDATE content SET head = x'0101ffffffff'");
	entry.id = id;
	assert_int_equal(change_entry(outbox, &entry, NULL, &putting), 0);
	put_numbers(outbox, "jobs", 0, 3);
	assert_true(WAIT_UNTIL(watching.sent == 3 && watching.refused == 1, ENOUGH_MS));
	assert_int_equal(seen_find(&watching, id)->entry.error, EIO);
	assert_int_equal(seen_find(&watching, id)->entry.kind, MQFS_ENTRY_KEPT);
}

/* --- kill -9 --- */

struct child {
	pid_t pid;
	int ends[2], orders[2];
};

/* Another mount, in a process of its own, that puts count messages when go_on is called. */
static struct child start_child(int count, int64_t publish_timeout_ms)
{
	struct child child;
	char byte = 0;

	close_all();
	mqfs_backend_close(backend);
	assert_int_equal(pipe(child.ends), 0);
	assert_int_equal(pipe(child.orders), 0);
	child.pid = fork();
	if (child.pid == 0) {
		snprintf(path, sizeof(path), "%s", store);
		limits.publish_timeout_ms = publish_timeout_ms;
		backend = open_store(10000);
		open_all();
		if (read(child.orders[0], &byte, 1) != 1)
			_exit(1);
		put_numbers(outbox, "jobs", 0, count);
		if (write(child.ends[1], &byte, 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	return child;
}

/* Lets it put them, and waits until it has. */
static void go_on(struct child *child)
{
	char byte = 0;

	assert_int_equal(write(child->orders[1], &byte, 1), 1);
	assert_int_equal(read(child->ends[0], &byte, 1), 1);
}

static void kill_child(struct child *child)
{
	int status;

	assert_int_equal(kill(child->pid, SIGKILL), 0);
	assert_int_equal(waitpid(child->pid, &status, 0), child->pid);
	for (int i = 0; i < 2; i++) {
		close(child->ends[i]);
		close(child->orders[i]);
	}
	snprintf(path, sizeof(path), "%s", store);
	backend = open_store(10000);
	open_all();
}

static void killed_while_it_sends(void **unused)
{
	(void)unused;
	for (int round = 0; round < 2; round++) {
		struct child child = start_child(1000, 1000);

		go_on(&child);
		usleep((useconds_t)round * 15000);
		kill_child(&child);
		sql_becomes("SELECT count(*) = 0 FROM entry");
		assert_int_equal(store_integer("SELECT count(DISTINCT body) FROM contents"), 1000);
		/* Not more than one window is sent twice. */
		assert_in_range(store_integer("SELECT count(*) FROM contents"), 1000 + round * 1000,
		                (1000 + 256) * (round + 1));
	}
}

static void a_dead_mounts_line_is_taken_over(void **unused)
{
	struct child child;
	int64_t id, begin_ms;

	(void)unused;
	child = start_child(10, 20000);
	silent();
	go_on(&child);
	sql_becomes("SELECT flight_to > 0 FROM line");
	kill_child(&child);
	begin_ms = mqfs_clock_monotonic_ms();
	id = watching.entries[0].id;
	assert_true(watching.entries[0].entry.in_flight);
	assert_int_equal(remove_entry(outbox, id), -EBUSY);
	loud();
	assert_true(WAIT_UNTIL(watching.sent == 10, ENOUGH_MS));
	assert_in_range(mqfs_clock_monotonic_ms() - begin_ms, 1000, 16000);
	assert_int_equal(store_integer("SELECT count(DISTINCT body) FROM contents"), 10);
}

int main(void)
{
#define OUTBOX_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	static const struct CMUnitTest tests[] = {
	    OUTBOX_TEST(what_waits_is_sent_in_order),
	    OUTBOX_TEST(a_message_arrives_as_it_was),
	    OUTBOX_TEST(a_delay_runs_on),
	    OUTBOX_TEST(a_refused_one_leaves_the_line),
	    OUTBOX_TEST(a_full_queue_refuses_the_rest),
	    OUTBOX_TEST(a_silent_broker_gets_one_at_a_time),
	    OUTBOX_TEST(a_close_leaves_it_waiting),
	    OUTBOX_TEST(one_of_two_mounts_sends),
	    OUTBOX_TEST(a_lease_is_renewed),
	    OUTBOX_TEST(what_is_on_the_way_cannot_be_taken_back),
	    OUTBOX_TEST(a_lease_is_renewed_while_nothing_can_be_written),
	    OUTBOX_TEST(what_took_too_long_is_not_sent),
	    OUTBOX_TEST(a_lost_line_is_left_to_the_other),
	    OUTBOX_TEST(a_line_of_another_boot_is_free),
	    OUTBOX_TEST(a_damaged_one_is_kept),
	    OUTBOX_TEST(killed_while_it_sends),
	    OUTBOX_TEST(a_dead_mounts_line_is_taken_over),
	};

	return cmocka_run_group_tests_name("outbox sending", tests, NULL, NULL);
}
