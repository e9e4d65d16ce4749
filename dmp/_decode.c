/* A user's stored record in one pass. Twin: dmp.codec.plain_user, which says what the bytes mean.

   Only what is sound is decoded here. Whatever is not just as expected, in type, version or length, is given to the twin,
   which finds the same fault again and says what it is; so both answer alike to any input. No byte is read that has not
   been counted first. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

enum { BANKS = 2, AUDIENCES = 2, CONTACTS = 3, RECENT = 4, VALUES = 5 };
enum { HEAD = 8, OF_TAG = 8, PAIR = 8, OF_CONTACT = 10, VECTOR = 128 }; /* bytes */
enum { RECENT_HEAD = 40, MOMENT = 8, TABLES = 7 };
static const Py_ssize_t of_row[TABLES] = {28, 14, 14, 13, 13, 12, 8}; /* dmp.realtime: tags, hours, days, recent, ... */

typedef struct {
    PyObject_HEAD
    PyObject *user, *contact, *realtime; /* classes of dmp.schema */
    PyObject *plain;                     /* the twin */
    PyObject *nobody, *none;             /* empty frozenset and tuple */
} Decoder;

/* A stored value; bytes NULL where there is none. */
typedef struct {
    const unsigned char *bytes;
    Py_ssize_t size;
} Value;

/* The profile that is seen; tags: how many. generation: -1 for no profile. */
typedef struct {
    Value value;
    Py_ssize_t tags;
    int64_t generation;
} Profile;

static uint32_t u16(const unsigned char *from) { return (uint32_t)from[0] | (uint32_t)from[1] << 8; }
static uint32_t u32(const unsigned char *from) { return u16(from) | u16(from + 2) << 16; }

/* All functions below return 1 for done, 0 for what the twin must look at, -1 with an error of Python's. */

static int read_profile(Value value, Profile *found) {
    if (value.size < HEAD || value.bytes[0] < 1 || value.bytes[0] > 2) return 0;
    *found = (Profile){value, u16(value.bytes + 2), u32(value.bytes + 4)};
    return value.size >= HEAD + OF_TAG * found->tags + (value.bytes[0] == 2 ? VECTOR : 0);
}

/* The bank of the highest generation that is not above the live one. */
static int seen(const Value *banks, int64_t live, Profile *best) {
    *best = (Profile){{NULL, 0}, 0, -1};
    for (int i = 0; i < BANKS; i++) {
        Profile found;
        if (!banks[i].bytes) continue;
        if (!read_profile(banks[i], &found)) return 0;
        if (best->generation < found.generation && found.generation <= live) *best = found;
    }
    return 1;
}

/* A dict with room for n entries, so that it need not grow thrice for thirty tags: a fifth of the time of decoding them.
   Python 3.13 took the way to ask for it back. */
static PyObject *new_dict(Py_ssize_t n) {
#if PY_VERSION_HEX < 0x030D0000
    return _PyDict_NewPresized(n);
#else
    (void)n;
    return PyDict_New();
#endif
}

static int read_tags(const Profile *profile, PyObject **to) {
    PyObject *tags = *to = new_dict(profile->tags);
    if (!tags) return -1;
    if (!profile->value.bytes) return 1;
    const unsigned char *ids = profile->value.bytes + HEAD, *scores = ids + 4 * profile->tags;
    for (Py_ssize_t i = 0; i < profile->tags; i++) {
        PyObject *tag = PyLong_FromUnsignedLong(u32(ids + 4 * i)), *score = PyLong_FromLong(scores[i]);
        const int fits = tag && score && PyDict_SetItem(tags, tag, score) == 0;
        Py_XDECREF(tag);
        Py_XDECREF(score);
        if (!fits) return -1;
    }
    return 1;
}

static int read_vector(const Profile *profile, PyObject **to) {
    const int held = profile->value.bytes && profile->value.bytes[0] == 2;
    const unsigned char *from = held ? profile->value.bytes + HEAD + OF_TAG * profile->tags : NULL;
    return (*to = PyBytes_FromStringAndSize((const char *)from, held ? VECTOR : 0)) ? 1 : -1;
}

/* Whether a table is of version 1 and of whole rows. */
static int is_table(Value value, Py_ssize_t row) { return value.bytes[0] == 1 && (value.size - 1) % row == 0; }

static int read_audiences(const Decoder *self, Value value, int64_t now_s, PyObject **to) {
    if (!value.size) {
        *to = Py_NewRef(self->nobody);
        return 1;
    }
    if (!is_table(value, PAIR)) return 0;
    PyObject *audiences = *to = PyFrozenSet_New(NULL);
    if (!audiences) return -1;
    for (const unsigned char *at = value.bytes + 1; at < value.bytes + value.size; at += PAIR) {
        const uint32_t until = u32(at + 4);
        if (until && (int64_t)until <= now_s) continue;
        PyObject *audience = PyLong_FromUnsignedLong(u32(at));
        const int fits = audience && PySet_Add(audiences, audience) == 0;
        Py_XDECREF(audience);
        if (!fits) return -1;
    }
    return 1;
}

static PyObject *new_contact(const Decoder *self, const unsigned char *at) {
    PyObject *args[] = {PyLong_FromUnsignedLong(u32(at)), PyLong_FromUnsignedLong(u32(at + 4)),
                        PyLong_FromLong((long)u16(at + 8))};
    PyObject *made = args[0] && args[1] && args[2] ? PyObject_Vectorcall(self->contact, args, 3, NULL) : NULL;
    for (int i = 0; i < 3; i++) Py_XDECREF(args[i]);
    return made;
}

static int read_contacts(const Decoder *self, Value value, PyObject **to) {
    if (!value.size) {
        *to = Py_NewRef(self->none);
        return 1;
    }
    if (!is_table(value, OF_CONTACT)) return 0;
    const Py_ssize_t n = (value.size - 1) / OF_CONTACT;
    if (!(*to = PyTuple_New(n))) return -1;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *contact = new_contact(self, value.bytes + 1 + OF_CONTACT * i);
        if (!contact) return -1;
        PyTuple_SET_ITEM(*to, i, contact);
    }
    return 1;
}

/* Whether a real-time record is as long as its tables say. */
static int is_recent(Value value) {
    if (value.size < RECENT_HEAD || value.bytes[0] != 1) return 0;
    Py_ssize_t end = RECENT_HEAD;
    for (int i = 0; i < TABLES; i++) end += of_row[i] * value.bytes[1 + i];
    if (value.size > end) end += 1 + MOMENT * value.bytes[end]; /* the first release ended before the moments */
    return value.size >= end;
}

static int read_recent(const Decoder *self, Value value, PyObject *data, PyObject **to) {
    if (!value.size) {
        *to = Py_NewRef(Py_None);
        return 1;
    }
    if (!is_recent(value)) return 0;
    return (*to = PyObject_Vectorcall(self->realtime, &data, 1, NULL)) ? 1 : -1;
}

/* The stored values, where they are five and each is bytes or None. */
static int read_values(PyObject *values, PyObject **objects, Value *to) {
    if (!PyList_CheckExact(values) && !PyTuple_CheckExact(values)) return 0;
    if (PySequence_Fast_GET_SIZE(values) != VALUES) return 0;
    for (int i = 0; i < VALUES; i++) {
        PyObject *object = PySequence_Fast_GET_ITEM(values, i);
        if (object != Py_None && !PyBytes_CheckExact(object)) return 0;
        to[i] = (Value){NULL, 0};
        if (object != Py_None) to[i] = (Value){(unsigned char *)PyBytes_AS_STRING(object), PyBytes_GET_SIZE(object)};
        objects[i] = object;
    }
    return 1;
}

/* An int of 64 bits. */
static int read_int(PyObject *object, int64_t *value) {
    int beyond;
    if (!PyLong_CheckExact(object)) return 0;
    *value = PyLong_AsLongLongAndOverflow(object, &beyond);
    return !beyond;
}

static int decode(const Decoder *self, PyObject *const *args, PyObject **user) {
    PyObject *objects[VALUES], *fields[6] = {NULL};
    Value values[VALUES];
    Profile profile;
    int64_t live, now_s;
    if (!read_values(args[0], objects, values) || !read_int(args[1], &live) || !read_int(args[2], &now_s) ||
        !seen(values, live, &profile))
        return 0;
    for (int i = 0; i < VALUES; i++) Py_INCREF(objects[i]); /* a list may change, whoever makes it do so */
    int done = read_tags(&profile, &fields[0]);
    if (done > 0) done = read_audiences(self, values[AUDIENCES], now_s, &fields[1]);
    if (done > 0) done = read_contacts(self, values[CONTACTS], &fields[2]);
    if (done > 0) done = read_vector(&profile, &fields[3]);
    if (done > 0) done = read_recent(self, values[RECENT], objects[RECENT], &fields[4]);
    if (done > 0) {
        fields[5] = PyBytes_GET_SIZE(fields[3]) ? Py_NewRef(args[1]) : PyLong_FromLong(0);
        *user = fields[5] ? PyObject_Vectorcall(self->user, fields, 6, NULL) : NULL;
        if (!*user) done = -1;
    }
    for (int i = 0; i < VALUES; i++) Py_DECREF(objects[i]);
    for (int i = 0; i < 6; i++) Py_XDECREF(fields[i]);
    return done;
}

/* decoder.user(values, live, now_s): as dmp.codec.decode_user. */
static PyObject *decoder_user(Decoder *self, PyObject *const *args, Py_ssize_t nargs) {
    PyObject *user = NULL;
    if (!self->plain) return PyErr_Format(PyExc_ValueError, "a Decoder that was not made");
    if (nargs != 3) return PyErr_Format(PyExc_TypeError, "user takes values, live and now_s");
    if (decode(self, args, &user) != 0) return user;
    return PyObject_Vectorcall(self->plain, args, 3, NULL);
}

static void decoder_dealloc(Decoder *self) {
    Py_XDECREF(self->user);
    Py_XDECREF(self->contact);
    Py_XDECREF(self->realtime);
    Py_XDECREF(self->plain);
    Py_XDECREF(self->nobody);
    Py_XDECREF(self->none);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static int decoder_init(Decoder *self, PyObject *args, PyObject *kwargs) {
    PyObject *user, *contact, *realtime, *plain;
    if (kwargs && PyDict_GET_SIZE(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Decoder takes no keywords");
        return -1;
    }
    if (self->nobody) {
        PyErr_SetString(PyExc_TypeError, "a Decoder is made once");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "OOOO", &user, &contact, &realtime, &plain)) return -1;
    if (!(self->nobody = PyFrozenSet_New(NULL)) || !(self->none = PyTuple_New(0))) return -1;
    self->user = Py_NewRef(user);
    self->contact = Py_NewRef(contact);
    self->realtime = Py_NewRef(realtime);
    self->plain = Py_NewRef(plain);
    return 0;
}

static PyMethodDef decoder_methods[] = {
    {"user", (PyCFunction)(void (*)(void))decoder_user, METH_FASTCALL, "A user from stored values."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject DecoderType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "dmp._decode.Decoder",
    .tp_basicsize = sizeof(Decoder),
    .tp_dealloc = (destructor)decoder_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Decoder(User, Contact, Realtime, plain): see dmp/_decode.pyi.",
    .tp_methods = decoder_methods,
    .tp_init = (initproc)decoder_init,
    .tp_new = PyType_GenericNew,
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "dmp._decode", .m_doc = "Stored records of users.", .m_size = -1,
};

PyMODINIT_FUNC PyInit__decode(void) {
    PyObject *made = PyModule_Create(&module);
    if (made && PyModule_AddIntConstant(made, "VERSION", 1) == 0 && PyModule_AddType(made, &DecoderType) == 0) return made;
    Py_XDECREF(made);
    return NULL;
}
