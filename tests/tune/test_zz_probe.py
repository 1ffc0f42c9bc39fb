import time
def test_probe(tiny_settings):
    from tune.prepare import prepare
    t=time.time(); prepare(tiny_settings, None, print); print(time.time()-t)
    from tune.settings import override
    for lr,ep in ((3e-3,6.),(1e-3,6.),(5e-3,4.)):
        t=time.time(); prepare(override(tiny_settings,{"teacher.learning_rate":lr,"teacher.epochs":ep}), None, print); print(lr,ep,time.time()-t)
