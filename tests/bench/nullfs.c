/* SPDX-License-Identifier: MIT */
/*
 * What FUSE itself costs: a filesystem with a new/ and a pending/ like those of a queue, which throws all
 * data away. It is asked for the same operations as mqfs and answers each at once; the difference to mqfs
 * is what mqfs adds. A file closed in new/ adds one to pending/, whose files all hold the same bytes.
 */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <fuse_lowlevel.h>

enum { NODE_ROOT = FUSE_ROOT_ID, NODE_NEW, NODE_PENDING };
enum { BODY_BYTES = 1024, WINDOW = 256, WORKERS = 2 };

#define DRAFT_BASE ((fuse_ino_t)1 << 40)
#define MESSAGE_BASE ((fuse_ino_t)1 << 20)
#define MESSAGES_MAX ((size_t)1 << 22)

enum message_state { LISTED, TAKEN, GONE };

static struct {
	pthread_mutex_t lock; /* guards all below */
	unsigned char state[MESSAGES_MAX];
	size_t first; /* all before it are GONE */
	size_t end;
	fuse_ino_t drafts;
} messages = {.lock = PTHREAD_MUTEX_INITIALIZER};

static char body[BODY_BYTES];

static struct stat node_stat(fuse_ino_t node)
{
	struct stat st = {.st_ino = node, .st_nlink = 1, .st_blksize = 4096};

	if (node <= NODE_PENDING) {
		st.st_mode = S_IFDIR | 0700;
	} else {
		st.st_mode = S_IFREG | 0600;
		st.st_size = node < DRAFT_BASE ? BODY_BYTES : 0;
	}
	return st;
}

static struct fuse_entry_param node_entry(fuse_ino_t node)
{
	struct fuse_entry_param entry = {.ino = node, .attr = node_stat(node)};

	entry.attr_timeout = 1;
	entry.entry_timeout = node < DRAFT_BASE ? 1 : 0;
	return entry;
}

static bool message_is(size_t index, enum message_state most)
{
	bool is;

	pthread_mutex_lock(&messages.lock);
	is = index < messages.end && messages.state[index] <= most;
	pthread_mutex_unlock(&messages.lock);
	return is;
}

static bool message_move(size_t index, enum message_state from, enum message_state to)
{
	bool moved = false;

	pthread_mutex_lock(&messages.lock);
	if (index < messages.end && messages.state[index] == from) {
		messages.state[index] = to;
		moved = true;
	}
	while (messages.first < messages.end && messages.state[messages.first] == GONE)
		messages.first++;
	pthread_mutex_unlock(&messages.lock);
	return moved;
}

/* The node of a name in pending/, or 0. */
static fuse_ino_t message_node(const char *name)
{
	char *end;
	size_t index = strtoul(name, &end, 10);

	return *end == '\0' && message_is(index, TAKEN) ? MESSAGE_BASE + index : 0;
}

static fuse_ino_t find(fuse_ino_t parent, const char *name)
{
	if (parent == NODE_ROOT && strcmp(name, "new") == 0)
		return NODE_NEW;
	if (parent == NODE_ROOT && strcmp(name, "pending") == 0)
		return NODE_PENDING;
	return parent == NODE_PENDING ? message_node(name) : 0;
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	fuse_ino_t node = find(parent, name);
	struct fuse_entry_param entry = node_entry(node);

	if (node == 0)
		fuse_reply_err(req, ENOENT);
	else
		fuse_reply_entry(req, &entry);
}

static void do_getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
	struct stat st = node_stat(node);

	(void)fi;
	fuse_reply_attr(req, &st, 1);
}

static void do_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct fuse_entry_param entry;

	(void)name, (void)mode;
	if (parent != NODE_NEW) {
		fuse_reply_err(req, EPERM);
		return;
	}
	pthread_mutex_lock(&messages.lock);
	entry = node_entry(DRAFT_BASE + messages.drafts++);
	pthread_mutex_unlock(&messages.lock);
	fi->direct_io = 1;
	fuse_reply_create(req, &entry, fi);
}

static void do_write(fuse_req_t req, fuse_ino_t node, const char *data, size_t size, off_t offset,
                     struct fuse_file_info *fi)
{
	(void)node, (void)data, (void)offset, (void)fi;
	fuse_reply_write(req, size);
}

static void do_flush(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
	int error = 0;

	(void)fi;
	if (node >= DRAFT_BASE) {
		pthread_mutex_lock(&messages.lock);
		if (messages.end == MESSAGES_MAX)
			error = ENOSPC;
		else
			messages.state[messages.end++] = LISTED;
		pthread_mutex_unlock(&messages.lock);
	}
	fuse_reply_err(req, error);
}

static void do_open(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
	if (!message_move(node - MESSAGE_BASE, LISTED, TAKEN)) {
		fuse_reply_err(req, EBUSY);
		return;
	}
	fi->direct_io = 1;
	fuse_reply_open(req, fi);
}

static void do_read(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset, struct fuse_file_info *fi)
{
	size_t left = offset < BODY_BYTES ? (size_t)(BODY_BYTES - offset) : 0;

	(void)node, (void)fi;
	fuse_reply_buf(req, body, size < left ? size : left);
}

static void do_release(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
	(void)node, (void)fi;
	fuse_reply_err(req, 0);
}

static void do_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	fuse_ino_t node = parent == NODE_PENDING ? message_node(name) : 0;

	fuse_reply_err(req, node != 0 && message_move(node - MESSAGE_BASE, TAKEN, GONE) ? 0 : EPERM);
}

/* The offset of an entry is 1 + the number of the message. */
static void list(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset, bool plus)
{
	char *buffer = calloc(1, size), name[32];
	size_t used = 0, bytes, index, listed = 0;
	struct fuse_entry_param entry;

	pthread_mutex_lock(&messages.lock);
	index = (size_t)offset > messages.first ? (size_t)offset : messages.first;
	for (; node == NODE_PENDING && index < messages.end && listed < WINDOW; index++) {
		if (messages.state[index] != LISTED)
			continue;
		snprintf(name, sizeof(name), "%zu", index);
		entry = node_entry(MESSAGE_BASE + index);
		if (plus)
			bytes = fuse_add_direntry_plus(req, buffer + used, size - used, name, &entry, (off_t)index + 1);
		else
			bytes = fuse_add_direntry(req, buffer + used, size - used, name, &entry.attr, (off_t)index + 1);
		if (bytes > size - used)
			break;
		used += bytes;
		listed++;
	}
	pthread_mutex_unlock(&messages.lock);
	fuse_reply_buf(req, buffer, used);
	free(buffer);
}

static void do_readdir(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset, struct fuse_file_info *fi)
{
	(void)fi;
	list(req, node, size, offset, false);
}

static void do_readdirplus(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset, struct fuse_file_info *fi)
{
	(void)fi;
	list(req, node, size, offset, true);
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = do_lookup,
    .getattr = do_getattr,
    .create = do_create,
    .write = do_write,
    .flush = do_flush,
    .open = do_open,
    .read = do_read,
    .release = do_release,
    .unlink = do_unlink,
    .readdir = do_readdir,
    .readdirplus = do_readdirplus,
};

static int serve(struct fuse_session *session)
{
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	int result;

	fuse_loop_cfg_set_max_threads(config, WORKERS);
	fuse_loop_cfg_set_clone_fd(config, 0);
	result = fuse_session_loop_mt(session, config);
	fuse_loop_cfg_destroy(config);
	return result < 0 ? 1 : 0;
}

int main(int argc, char **argv)
{
	char *no_arguments[] = {argv[0], NULL};
	struct fuse_args arguments = FUSE_ARGS_INIT(1, no_arguments);
	struct fuse_session *session;
	int status = 1;

	if (argc != 2) {
		fprintf(stderr, "usage: nullfs DIR\n");
		return 2;
	}
	session = fuse_session_new(&arguments, &operations, sizeof(operations), NULL);
	if (session == NULL)
		return 1;
	if (fuse_set_signal_handlers(session) == 0) {
		if (fuse_session_mount(session, argv[1]) == 0) {
			status = serve(session);
			fuse_session_unmount(session);
		}
		fuse_remove_signal_handlers(session);
	}
	fuse_session_destroy(session);
	return status;
}
