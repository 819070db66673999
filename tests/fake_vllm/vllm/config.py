class PoolerConfig:
    def __init__(self, **given: object) -> None:
        self.given = given
